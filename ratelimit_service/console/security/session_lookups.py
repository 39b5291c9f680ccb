"""Lookups of sessions that are not in memory: whoever makes up cookies costs no transaction of their own."""

import asyncio
from collections.abc import Collection, Mapping
from hashlib import sha256
from time import monotonic
from typing import Final, Protocol

from ratelimit_service.api.reasons import ReasonCounts
from ratelimit_service.decision.lru import LruCache
from ratelimit_service.errors import Unavailable
from ratelimit_service.management.sessions import Session

READS_PER_SECOND: Final = 10.0
"""At most, however many sessions there are to look up: one read serves all that wait for it."""

MAX_WAITING: Final = 500
"""Values that wait for a read. Requests with one more are refused, to be repeated."""

UNKNOWN_SECONDS: Final = 5.0
"""For which a value that no session has is not looked up again: values are random, so none is sent before it exists."""

_MAX_UNKNOWN: Final = 5_000  # at most twice as many, in some 150 bytes each


class SessionSource(Protocol):
    """Finds sessions."""

    async def find(self, values: Collection[str], /) -> Mapping[str, Session]:
        """The open ones of the sessions with these values. Raises Unavailable if they cannot be read."""
        ...


class SessionLookups:
    """Reads sessions, all that are asked for together. Belongs to the running loop."""

    def __init__(self, sessions: SessionSource) -> None:
        self._sessions = sessions
        # By their digests: a value is a secret, also if its session was closed.
        self._unknown: LruCache[bytes, float] = LruCache(_MAX_UNKNOWN)
        self._waiting: dict[str, asyncio.Future[Session | None]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._begun_at = -1 / READS_PER_SECOND
        self._refused = ReasonCounts("sessions were not looked up")

    async def find(self, value: str) -> Session | None:
        """The open session with this value, or None. Raises Unavailable if it cannot be read, or too many wait."""
        if (self._unknown.get(_digest(value)) or 0.0) > monotonic():
            return None
        found = self._waiting.get(value)
        if found is None:
            if len(self._waiting) >= MAX_WAITING:
                self._refused.add("console", "TOO_MANY_AT_ONCE")
                raise Unavailable(
                    "the session was not looked up: too many unknown ones are sent; try again",
                    reason="TOO_MANY_AT_ONCE",
                )
            found = self._waiting[value] = asyncio.get_running_loop().create_future()
            if self._reader is None:
                self._reader = asyncio.create_task(self._read())
        return await asyncio.shield(found)

    async def _read(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(self._begun_at + 1 / READS_PER_SECOND - monotonic())
                self._begun_at = monotonic()
                waiting, self._waiting = self._waiting, {}
                await self._settle(waiting)
        finally:
            self._reader = None

    async def _settle(self, waiting: Mapping[str, "asyncio.Future[Session | None]"]) -> None:
        try:
            sessions = await self._sessions.find(list(waiting))
        except Exception as error:  # noqa: BLE001 every error is raised in the requests that wait
            for future in waiting.values():
                future.set_exception(error)
                future.exception()  # marks it as retrieved: every request that waited may have gone
            return
        for value, future in waiting.items():
            session = sessions.get(value)
            if session is None:
                self._unknown.put(_digest(value), monotonic() + UNKNOWN_SECONDS)
            future.set_result(session)


def _digest(value: str) -> bytes:
    return sha256(value.encode("utf-8", "replace")).digest()
