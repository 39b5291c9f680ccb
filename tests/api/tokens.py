"""Tokens for tests of authentication: a source that counts its reads, and headers."""

import asyncio
from collections.abc import Hashable

from ratelimit_service.errors import Unavailable
from ratelimit_service.management.known_tokens import TokenTable
from ratelimit_service.management.tokens import Role, StoredToken, Token


class Source:
    """The stored tokens: what a test adds and removes, as a table that can be away."""

    def __init__(self) -> None:
        self.stored: dict[str, StoredToken] = {}
        self.away = False
        self.error: Exception | None = None
        """What else a read fails with."""
        self.reads = 0
        self.seconds = 0.0
        """How long a read takes."""

    def make(self, name: str = "alice", role: Role = Role.ADMIN) -> Token:
        """A new token."""
        token = Token.generate()
        self.stored[token.token_id] = StoredToken(token.token_id, name, role, token.digest(), 0)
        return token

    def revoke(self, token: Token) -> None:
        """End a token."""
        del self.stored[token.token_id]

    async def read(self, known: Hashable) -> TokenTable | None:
        """Read it."""
        self.reads += 1
        stored, away = dict(self.stored), self.away
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        if away:
            raise Unavailable("Postgres is down", reason="POLICY_STORE_UNAVAILABLE")
        version = frozenset(stored)
        return None if version == known else TokenTable(version, stored)


class Time:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def bearer(token: Token) -> str:
    """The header with a token."""
    return f"Bearer {token}"
