"""The cookie of a session, and sessions as they are known for a second."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from time import monotonic
from typing import Final, NamedTuple, Protocol

from starlette.requests import HTTPConnection
from starlette.responses import Response

from ratelimit_service.api.authentication import TOKEN_TTL
from ratelimit_service.console.security.session_lookups import SessionLookups, SessionSource
from ratelimit_service.decision.ports import Clock
from ratelimit_service.errors import Unavailable
from ratelimit_service.management.sessions import SESSION_US, Session, is_session_value

_MAX_CACHED: Final = 1024


class Sessions(SessionSource, Protocol):
    """Finds sessions."""

    async def get(self, value: str, /) -> Session | None:
        """The open session with this value. Raises Unavailable if that is not known."""
        ...


class _Found(NamedTuple):
    session: Session
    until: float


class SessionReader:
    """Finds the session of a cookie, at most TOKEN_TTL seconds old: so soon a revoked token ends all its sessions.

    A value that is not that of a session in memory may be made up: its lookup waits for others (`SessionLookups`).
    While sessions cannot be read, one that was open the last time stays open: the console has to say what is wrong.
    """

    def __init__(self, sessions: Sessions, clock: Clock, now: Callable[[], float] = monotonic) -> None:
        self._sessions = sessions
        self._lookups = SessionLookups(sessions)
        self._clock = clock
        self._now = now
        self._found: OrderedDict[bytes, _Found] = OrderedDict()
        self._closed: OrderedDict[bytes, None] = OrderedDict()
        self._pending: dict[bytes, asyncio.Task[Session | None]] = {}

    async def get(self, value: str) -> Session | None:
        """Return the open session with this value, or None. Raises Unavailable if it was never read."""
        if not is_session_value(value):
            return None
        digest = _digest(value)
        found = self._found.get(digest)
        if found is not None and self._now() < found.until:
            return self._current(digest, found.session)
        pending = self._pending.get(digest)
        if pending is None:
            pending = self._pending[digest] = asyncio.create_task(self._read(value, digest))
            pending.add_done_callback(lambda task: self._settled(digest, task))
        return self._current(digest, await asyncio.shield(pending))

    def opened(self, value: str, session: Session) -> None:
        """Take a session as open, which it is since just now: its first request need not be looked up."""
        self._keep(_digest(value), session)

    def close(self, value: str) -> None:
        """Take a session as closed from now on, whatever a read that has begun already will find."""
        self._closed[_digest(value)] = None
        while len(self._closed) > _MAX_CACHED:
            self._closed.popitem(last=False)

    def _current(self, digest: bytes, session: Session | None) -> Session | None:
        if session is None or digest in self._closed or session.expires_us <= self._clock.now_us():
            return None
        return session

    async def _read(self, value: str, digest: bytes) -> Session | None:
        found = self._found.get(digest)
        try:
            session = await (self._lookups.find(value) if found is None else self._sessions.get(value))
        except Unavailable:
            if found is None:
                raise
            session = found.session
        self._found.pop(digest, None)
        if session is not None:
            self._keep(digest, session)
        return session

    def _keep(self, digest: bytes, session: Session) -> None:
        while len(self._found) >= _MAX_CACHED:
            self._found.popitem(last=False)
        self._found[digest] = _Found(session, self._now() + TOKEN_TTL)

    def _settled(self, digest: bytes, task: "asyncio.Task[Session | None]") -> None:
        del self._pending[digest]
        if not task.cancelled():
            task.exception()  # if every request that waited has gone, it was never retrieved


def _digest(value: str) -> bytes:
    return sha256(value.encode("utf-8", "replace")).digest()


def _is_secure(connection: HTTPConnection) -> bool:
    return connection.url.scheme == "https"


def _cookie_name(connection: HTTPConnection) -> str:
    return "__Host-ratelimit-session" if _is_secure(connection) else "ratelimit-session"


def session_value(connection: HTTPConnection) -> str:
    """Return what the session cookie holds, or "". Under TLS only the cookie that TLS alone can set counts.

    Another server of this host, on another port, may set a cookie of the same name beside ours, such as that of a
    session of its own. Two different ones are no session: nobody is led to act in somebody else's.
    """
    wanted = _cookie_name(connection)
    sent = "; ".join(connection.headers.getlist("cookie"))
    pairs = (part.partition("=") for part in sent.split(";"))
    found = {value.strip() for name, _, value in pairs if name.strip() == wanted}
    return found.pop() if len(found) == 1 else ""


def set_session_cookie(connection: HTTPConnection, response: Response, value: str) -> None:
    """Set the cookie: not readable by scripts, never sent with a request that another site caused."""
    secure = _is_secure(connection)
    response.set_cookie(
        _cookie_name(connection),
        value,
        max_age=SESSION_US // 1_000_000,
        path="/" if secure else connection.scope.get("root_path", "") or "/",  # `__Host-` demands the path /
        secure=secure,
        httponly=True,
        samesite="strict",
    )


def clear_session_cookie(connection: HTTPConnection, response: Response) -> None:
    """Remove the cookie."""
    secure = _is_secure(connection)
    response.delete_cookie(
        _cookie_name(connection),
        path="/" if secure else connection.scope.get("root_path", "") or "/",
        secure=secure,
        httponly=True,
        samesite="strict",
    )
