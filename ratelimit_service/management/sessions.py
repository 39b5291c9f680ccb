"""Sessions of the console: who is signed in, by which token, and until when.

A session is a row. Its cookie holds a random value that names nothing and is stored as a digest only, so a copy of the
table opens no session. Every server reads the same rows, hence signing out ends a session on all of them, and revoking
the token ends all of its sessions.
"""

import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Protocol

from ratelimit_service.decision.limit import MICRO
from ratelimit_service.decision.ports import Clock
from ratelimit_service.errors import PermissionDenied, Unauthenticated
from ratelimit_service.management.tokens import Caller, Role, Token, TokenRepository
from ratelimit_service.management.transactions import Transactions

SESSION_US: Final = 12 * 3_600 * MICRO
"""How long a session lasts at most, in microseconds: 12 hours from signing in, used or not."""

MAX_SESSIONS: Final = 100
"""Sessions that a token has at a time. Beyond them the oldest is closed, so that nobody fills the table."""

_VALUE_BYTES: Final = 32
_VALUE: Final = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session as it is stored. Times are microseconds since 1970 UTC."""

    digest: bytes = field(repr=False)
    token_id: str
    created_us: int
    expires_us: int


@dataclass(frozen=True, slots=True)
class Session:
    """A session that is open: who signed in, with which token, and until when it lasts at most."""

    caller: Caller
    token_id: str
    created_us: int
    expires_us: int


class SessionRepository(Protocol):
    """Stores sessions."""

    async def find(self, digests: Collection[bytes]) -> Sequence[StoredSession]:
        """Read the sessions with these digests, expired or not."""
        ...

    async def add(self, session: StoredSession) -> None:
        """Insert a new session."""
        ...

    async def delete(self, digest: bytes) -> None:
        """Delete a session, if there is one."""
        ...

    async def delete_expired(self, now_us: int) -> None:
        """Delete the sessions that have expired."""
        ...

    async def keep_newest(self, token_id: str, count: int) -> None:
        """Delete the sessions of a token but for the COUNT newest."""
        ...


class SessionWork(Protocol):
    """What a transaction of sessions works on."""

    @property
    def sessions(self) -> SessionRepository:
        """The sessions, as this transaction sees them."""
        ...

    @property
    def tokens(self) -> TokenRepository:
        """The tokens, as this transaction sees them."""
        ...


class SessionService:
    """Opens, finds and closes sessions. Every method raises Unavailable when Postgres is down."""

    def __init__(self, transactions: Transactions[SessionWork], clock: Clock) -> None:
        self._transactions = transactions
        self._clock = clock

    async def open(self, text: str, *, replaced: str = "") -> tuple[str, Session]:
        """Open a session with the token TEXT, and close the one with the value REPLACED, if any.

        Returns the new value, for the cookie alone, and the session. Raises Unauthenticated for a token that is
        malformed, unknown or revoked, without a difference, and PermissionDenied for a gateway's.
        """
        now_us = self._clock.now_us()
        token = Token.parse(text)
        if token is None:
            raise invalid_token()
        async with self._transactions.reading() as work:
            stored = await work.tokens.get(token.token_id)
        if stored is None or not stored.accepts(token):
            raise invalid_token()
        if stored.role is Role.GATEWAY:
            raise PermissionDenied(
                "a token of role gateway requests decisions only; sign in with one of role admin or viewer",
                reason="ROLE_INSUFFICIENT",
                metadata={"role": stored.role.value, "needed": Role.VIEWER.value},
            )
        value = secrets.token_urlsafe(_VALUE_BYTES)
        session = StoredSession(_digest(value), stored.token_id, now_us, now_us + SESSION_US)
        async with self._transactions.writing() as work:
            await work.sessions.delete_expired(now_us)
            if replaced:
                await work.sessions.delete(_digest(replaced))
            await work.sessions.keep_newest(stored.token_id, MAX_SESSIONS - 1)
            await work.sessions.add(session)
        return value, Session(stored.holder, stored.token_id, now_us, session.expires_us)

    async def get(self, value: str) -> Session | None:
        """Return the open session with this value. None when it was closed, has expired, or its token was revoked."""
        return (await self.find([value])).get(value)

    async def find(self, values: Collection[str]) -> Mapping[str, Session]:
        """Return the open ones of the sessions with these values, in one transaction."""
        by_digest = {_digest(value): value for value in values if is_session_value(value)}
        if not by_digest:
            return {}
        now_us = self._clock.now_us()
        async with self._transactions.reading() as work:
            sessions = [each for each in await work.sessions.find(list(by_digest)) if now_us < each.expires_us]
            tokens = {token_id: await work.tokens.get(token_id) for token_id in {each.token_id for each in sessions}}
        found = {}
        for session in sessions:
            token = tokens[session.token_id]
            if token is not None and token.revoked_us is None:
                value = by_digest[session.digest]
                found[value] = Session(token.holder, token.token_id, session.created_us, session.expires_us)
        return found

    async def close(self, value: str) -> None:
        """Close a session on every server. Nothing happens if there is none with this value."""
        async with self._transactions.writing() as work:
            await work.sessions.delete(_digest(value))


def is_session_value(value: str) -> bool:
    """Whether a session may have this value, by its form alone."""
    return _VALUE.fullmatch(value) is not None


def _digest(value: str) -> bytes:
    """The stored form: SHA-256, which is enough for a value of 256 random bits."""
    return sha256(value.encode("utf-8", "surrogatepass")).digest()


def invalid_token() -> Unauthenticated:
    """The error of whoever signs in with a token that is malformed, unknown or revoked."""
    return Unauthenticated("the token is not known, or was revoked", reason="TOKEN_INVALID")
