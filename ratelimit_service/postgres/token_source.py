"""All valid tokens, as servers read them from Postgres."""

from collections.abc import Hashable
from typing import Final

import structlog
from sqlalchemy import func, select

from ratelimit_service.management.known_tokens import TokenTable
from ratelimit_service.management.tokens import Role, StoredToken
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.failures import HardTimeout, raise_unavailable, translate_failures
from ratelimit_service.postgres.tables import admin_tokens

READ_SECONDS: Final = 0.4
"""How long a read may take. Callers with a token that is known notice nothing of one that takes longer."""

_VERSION = select(
    func.count(),
    func.count(admin_tokens.c.revoke_time),
    func.max(admin_tokens.c.create_time),
    func.max(admin_tokens.c.revoke_time),
).select_from(admin_tokens)
"""Tokens are added and revoked, and never change otherwise."""

_VALID = select(admin_tokens).where(admin_tokens.c.revoke_time.is_(None))

_log = structlog.get_logger(__name__)


class PostgresTokenSource:
    """As `management.known_tokens.TokenSource` describes it, on a connection of its own.

    So neither can unknown tokens keep the control plane from its connections, nor the other way round.
    """

    def __init__(self, url: str) -> None:
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
            version = tuple((await connection.execute(_VERSION)).one())
            if version == known:
                return None
            tokens: dict[str, StoredToken] = {}
            for row in await connection.execute(_VALID):
                try:
                    role = Role(row.role)
                except ValueError:
                    _log.warning("a token is ignored: its role is not known", name=row.name, role=row.role)
                    continue
                tokens[row.token_id] = StoredToken(row.token_id, row.name, role, bytes(row.digest), row.create_time)
            return TokenTable(version, tokens)
