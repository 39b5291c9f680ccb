"""All valid tokens, as servers read them from Postgres."""

from collections.abc import Hashable, Mapping
from time import monotonic
from typing import Any, Final

from sqlalchemy import Row, Text, cast, func, literal_column, select

from ratelimit_service.decision.text import check_text
from ratelimit_service.management.known_tokens import TokenTable
from ratelimit_service.management.tokens import Role, StoredToken
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.failures import HardTimeout, raise_unavailable, translate_failures
from ratelimit_service.postgres.policy_rows import microseconds
from ratelimit_service.postgres.tables import admin_tokens
from ratelimit_service.postgres.unreadable_rows import UnreadableRows

READ_SECONDS: Final = 0.4
"""How long a read may take. Callers with a token that is known notice nothing of one that takes longer."""

_VERSION = select(
    func.count(),
    func.count(admin_tokens.c.revoke_time),
    cast(func.max(admin_tokens.c.create_time), Text),
    cast(func.max(admin_tokens.c.revoke_time), Text),
).select_from(admin_tokens)
"""Tokens are added and revoked, and never change otherwise."""

_MAX_NAME: Final = 256
_DIGEST_BYTES: Final = 32

_VALID = select(
    admin_tokens.c.token_id,
    func.substr(admin_tokens.c.name, 1, _MAX_NAME + 1).label("name"),
    admin_tokens.c.role,
    func.substr(admin_tokens.c.digest, 1, _DIGEST_BYTES + 1).label("digest"),
    literal_column("to_json(create_time) #>> '{}'", Text).label("create_time"),
).where(admin_tokens.c.revoke_time.is_(None), func.octet_length(admin_tokens.c.token_id) <= _MAX_NAME)
"""What is too long to be a token's is cut off: it would take longer to read than there is time for all tokens."""

_RECHECK_SECONDS: Final = 5.0
"""Between two reads of rows that are not valid, which somebody may repair by hand."""


class PostgresTokenSource:
    """As `management.known_tokens.TokenSource` describes it, on a connection of its own.

    So neither can unknown tokens keep the control plane from its connections, nor the other way round. A token whose
    row is not valid stays as it was last, unless it was revoked; one that never was valid is ignored.
    """

    def __init__(self, url: str, unreadable: UnreadableRows | None = None) -> None:
        """UNREADABLE gets the rows that are not valid."""
        self._unreadable = unreadable or UnreadableRows()
        self._last: Mapping[str, StoredToken] = {}
        self._are_all_valid = True
        self._database = Database(url, pool_size=1, pool_overflow=0, transaction_seconds=READ_SECONDS)
        self._timeout = HardTimeout()

    async def read(self, known: Hashable) -> TokenTable | None:
        """All valid tokens, None if nothing has changed since version KNOWN. Raises Unavailable."""
        with raise_unavailable(), translate_failures():
            return await self._timeout.run(READ_SECONDS, self._read(known))

    async def close(self) -> None:
        """Close the connection."""
        await self._database.close()

    async def _read(self, known: Hashable) -> TokenTable | None:
        async with self._database.reading() as connection:
            counts = tuple((await connection.execute(_VERSION)).one())
            version = (counts, 0 if self._are_all_valid else int(monotonic() / _RECHECK_SECONDS))
            if version == known:
                return None
            rows = (await connection.execute(_VALID)).all()
        tokens: dict[str, StoredToken] = {}
        self._are_all_valid = True
        for row in rows:
            try:
                tokens[row.token_id] = _token(row)
            except Exception as error:  # noqa: BLE001 whatever is wrong with a row, it must harm that token alone
                self._are_all_valid = False
                self._unreadable.report("admin_tokens", f"token {row.token_id!r}", f"{type(error).__name__}: {error}")
                last = self._last.get(row.token_id)
                if last is not None and row.digest in (None, last.digest):
                    tokens[row.token_id] = last
            else:
                self._unreadable.readable("admin_tokens", f"token {row.token_id!r}")
        self._last = tokens
        return TokenTable(version, tokens)


def _token(row: Row[*tuple[Any, ...]]) -> StoredToken:
    if not row.name:
        raise ValueError("it has no name")
    check_text("name", row.name, _MAX_NAME)
    digest = bytes(row.digest)
    if len(digest) != _DIGEST_BYTES:
        raise ValueError(f"its digest has {len(digest)} bytes, not {_DIGEST_BYTES}")
    return StoredToken(row.token_id, row.name, Role(row.role), digest, microseconds(row.create_time) or 0)
