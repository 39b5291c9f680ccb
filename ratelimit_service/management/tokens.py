"""Callers, their roles, and the bearer tokens that authenticate them: `rlt_<id>_<secret>`."""

import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from typing import Protocol

from ratelimit_service.decision.limit import NAME
from ratelimit_service.decision.ports import Clock
from ratelimit_service.errors import InvalidArgument, Unauthenticated
from ratelimit_service.management.audit import AuditedWork, Event
from ratelimit_service.management.transactions import Rehearsal, Transactions

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 12
_SECRET_LENGTH = 32  # 62^32 is a little over 2^190
_FORM = re.compile(rf"rlt_([0-9A-Za-z]{{{_ID_LENGTH}}})_([0-9A-Za-z]{{{_SECRET_LENGTH}}})")


class Role(Enum):
    """What a token allows. An admin may do what a viewer may; a gateway may only request decisions."""

    VIEWER = "viewer"
    ADMIN = "admin"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call: the name of their token and its role. `role` is None for a caller without a token."""

    name: str
    role: Role | None


ANONYMOUS = Caller("", None)
"""A caller without a token."""

UNDECIDED = Caller("undecided", None)
"""A caller with a token that was not looked up in time. The methods that decide deny them, until it was; see
`decision.outcome.UNDECIDED`."""

LOCAL = Caller("cli", Role.ADMIN)
"""The user of the command line on the server's own machine, who has the database's URL."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token in full, as its holder has it. Shown once and never written anywhere, `repr` included."""

    token_id: str
    secret: str = field(repr=False)

    @classmethod
    def generate(cls) -> "Token":
        """Create a token with a secret of 190 random bits."""
        return cls(_random(_ID_LENGTH), _random(_SECRET_LENGTH))

    @classmethod
    def parse(cls, text: str) -> "Token | None":
        """Read a token as its holder sent it. None when it is malformed."""
        form = _FORM.fullmatch(text)
        return None if form is None else cls(*form.groups())

    def __str__(self) -> str:
        """The token in full, for its holder only."""
        return f"rlt_{self.token_id}_{self.secret}"

    def digest(self) -> bytes:
        """The stored form: SHA-256, which is enough for a secret that is random and long."""
        return sha256(str(self).encode()).digest()


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token as it is stored. Times are microseconds since 1970 UTC; `revoked_us` is None while it is valid."""

    token_id: str
    name: str
    role: Role
    digest: bytes = field(repr=False)
    created_us: int
    revoked_us: int | None = None

    def accepts(self, token: Token) -> bool:
        """Whether TOKEN is this one and was not revoked. Compares in constant time."""
        return hmac.compare_digest(self.digest, token.digest()) and self.revoked_us is None

    @property
    def holder(self) -> Caller:
        """The caller that it authenticates."""
        return Caller(self.name, self.role)


class TokenRepository(Protocol):
    """Stores tokens."""

    async def get(self, token_id: str) -> StoredToken | None:
        """Read a token by its public id, revoked ones included."""
        ...

    async def get_named(self, name: str) -> StoredToken | None:
        """Read the token of this name that is not revoked."""
        ...

    async def list(self) -> Sequence[StoredToken]:
        """Read all tokens in the order of their names, revoked ones included."""
        ...

    async def add(self, token: StoredToken) -> None:
        """Insert a new token. No token with its name is valid."""
        ...

    async def revoke(self, token_id: str, now_us: int) -> None:
        """Mark a token as revoked."""
        ...

    async def any(self) -> bool:
        """Whether there is a token that is not revoked."""
        ...


class TokenWork(AuditedWork, Protocol):
    """What a transaction of tokens works on."""

    @property
    def tokens(self) -> TokenRepository:
        """The tokens, as this transaction sees them."""
        ...


class TokenService:
    """Manages tokens, on the server's own machine only: `authenticate` alone is used by RPCs.

    Every method raises Unavailable when Postgres is down.
    """

    def __init__(self, transactions: Transactions[TokenWork], clock: Clock) -> None:
        self._transactions = transactions
        self._clock = clock

    def rehearsal(self) -> "TokenService":
        """The same service, whose changes are checked as a whole and not made."""
        return TokenService(Rehearsal(self._transactions), self._clock)

    async def create(self, name: str, role: Role) -> str:
        """Create a token and return it in full; it cannot be read again.

        The name is the actor in audit events. Raises InvalidArgument (field `name`) when it is malformed or a valid
        token has it.
        """
        if not NAME.fullmatch(name) or name == LOCAL.name:
            raise InvalidArgument.of(
                "name",
                f"is {name[:80]!r}; use 1 to 64 of a-z 0-9 _ - ., begin with a letter or digit, and leave "
                f"{LOCAL.name!r} to the command line itself",
            )
        now_us = self._clock.now_us()
        token = Token.generate()
        async with self._transactions.writing() as work:
            if await work.tokens.get_named(name) is not None:
                raise InvalidArgument.of("name", f"is {name!r}, which a token has already; revoke it or choose another")
            await work.tokens.add(StoredToken(token.token_id, name, role, token.digest(), now_us))
            await work.record(Event(LOCAL.name, "token.create", f"tokens/{name}", {"role": role.value}, now_us))
        return str(token)

    async def revoke(self, name: str) -> None:
        """End a token. Raises InvalidArgument (field `name`) when no valid token has this name."""
        now_us = self._clock.now_us()
        async with self._transactions.writing() as work:
            token = await work.tokens.get_named(name) if NAME.fullmatch(name) else None
            if token is None:
                raise InvalidArgument.of("name", f"is {name[:80]!r}, which no token has; list them to see their names")
            await work.tokens.revoke(token.token_id, now_us)
            previous = {"role": token.role.value}
            await work.record(Event(LOCAL.name, "token.revoke", f"tokens/{name}", {}, now_us, previous))

    async def list(self) -> Sequence[StoredToken]:
        """Read all tokens in the order of their names, revoked ones included."""
        async with self._transactions.reading() as work:
            return await work.tokens.list()

    async def authenticate(self, text: str) -> Caller:
        """Return the holder of this token. Raises Unauthenticated when it is malformed, unknown or revoked."""
        token = Token.parse(text)
        stored = None
        if token is not None:
            async with self._transactions.reading() as work:
                stored = await work.tokens.get(token.token_id)
        if token is None or stored is None or not stored.accepts(token):
            raise Unauthenticated(
                "the token is not known, or was revoked; make one with `ratelimit-service admin-tokens create`",
                reason="TOKEN_INVALID",
            )
        return stored.holder

    async def any(self) -> bool:
        """Whether there is a valid token."""
        async with self._transactions.reading() as work:
            return await work.tokens.any()


def _random(length: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(length))
