"""All valid tokens as a server has them in memory: whoever makes tokens up costs it no statement of their own."""

import asyncio
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from math import inf
from time import monotonic
from typing import Final, NamedTuple, Protocol

import structlog

from ratelimit_service.decision.lru import LruCache
from ratelimit_service.errors import LookupDeferred, Unavailable
from ratelimit_service.management.tokens import StoredToken, Token

TOKEN_TTL: Final = 1.0
"""Seconds for which a read is relied on, and so the maximum time that a revoked token is still accepted."""

READS_PER_SECOND: Final = 10.0
"""At most, however many tokens there are to look up: one read serves all that wait for it."""

MAX_WAITING: Final = 50
"""Unknown tokens that wait for a read. Calls with one more are deferred at once: the next read finds that token too, if
it is valid. Waiting calls are answered all at once, while all others wait."""

_REFRESH_AFTER: Final = 0.5
"""Seconds after which tokens that are used are read again, while calls go on with those that are known."""

_MAX_WAIT: Final = 1.0
"""Seconds that a call without a deadline waits for its turn."""

_RETRY_AFTER: Final = 0.5
"""Seconds from the beginning of a read that failed until the next one."""

_AWAY_SECONDS: Final = 1.5
"""Seconds from the beginning of a read that failed for which calls with a known token do not wait for the next one."""

_UNKNOWN_TTL: Final = 5.0
"""Seconds for which an id that no token has is not looked up again. Ids are chosen at random when tokens are made, so
none is asked for before it exists, but by who guesses."""

_MAX_UNKNOWN: Final = 5_000  # at most twice as many, in some 100 bytes each

_WATCH_SECONDS: Final = 0.2
"""Seconds between two checks of whether the tokens of open streams have to be read again."""

_NO_LOOKUP: Final = "tokens cannot be read from Postgres now, and this one is not in memory; try again"

_log = structlog.stdlib.get_logger(__name__)


class TokenTable(NamedTuple):
    """All valid tokens by their ids, and the version of the table that they were read from."""

    version: Hashable
    tokens: Mapping[str, StoredToken]


class TokenSource(Protocol):
    """Reads tokens."""

    async def read(self, known: Hashable) -> TokenTable | None:
        """All valid tokens, None if nothing has changed since version KNOWN. Raises Unavailable."""
        ...


class _Read:
    """A read, and the calls that wait for it, by the id of their token."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[asyncio.Future[None]]] = {}

    async def wait(self, token_id: str, seconds: float) -> None:
        """Wait until it has ended, raising its error, if any. Raises LookupDeferred after so many SECONDS."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        self.waiting.setdefault(token_id, []).append(ended)
        timer = loop.call_later(max(seconds, 0), lambda: _settle(ended, _deferred()))
        try:
            await ended
        finally:
            timer.cancel()

    def end(self, error: Exception | None = None) -> None:
        """Have the calls go on, or fail with ERROR."""
        for calls in self.waiting.values():
            for ended in calls:
                _settle(ended, error)


class KnownTokens:
    """The valid tokens, at most TOKEN_TTL seconds old while they are used. Belongs to the running loop.

    They are read again, all at once, at most READS_PER_SECOND times, so a token that was just made is found at once,
    and no number of unknown ones keeps a known one from being found. While they cannot be read, those that were valid
    stay valid: a gateway must not be cut off because Postgres is down.
    """

    def __init__(self, source: TokenSource, now: Callable[[], float] = monotonic) -> None:
        self._source = source
        self._now = now
        self._tokens: Mapping[str, StoredToken] = {}
        self._version: Hashable = None
        self.generation = 0
        """Changes whenever the tokens do."""
        self._read_at = -inf  # when the last read that succeeded was begun
        self._begun_at = -inf  # when the last read was begun
        self._failed: Unavailable | None = None  # how the last read failed, if it did
        self._unknown: LruCache[str, float] = LruCache(_MAX_UNKNOWN)
        self._next: _Read | None = None  # that has not begun
        self._reader: asyncio.Task[None] | None = None
        self._watched: dict[object, tuple[Token, Callable[[], None]]] = {}
        self._watcher: asyncio.Task[None] | None = None
        self.deferred = 0
        """Calls so far whose turn did not come."""

    @property
    def fresh(self) -> bool:
        """Whether the tokens need not be read again yet."""
        return self._now() - self._read_at < _REFRESH_AFTER

    async def find(self, token_id: str, deadline: float | None = None) -> StoredToken | None:
        """The valid token with this id, or None.

        A call that waits until DEADLINE (monotonic seconds) raises LookupDeferred if it is not known by then, and
        Unavailable if tokens cannot be read.
        """
        now = self._now()
        stored = self._tokens.get(token_id)
        if stored is not None:
            await self._refresh(token_id, now, deadline)
            return self._tokens.get(token_id)
        if (self._unknown.get(token_id) or 0.0) > now:
            return None
        if self._failed is not None and now < self._begun_at + _RETRY_AFTER:
            raise Unavailable(_NO_LOOKUP, reason=self._failed.reason)
        await self._wait(token_id, deadline, most=MAX_WAITING)
        stored = self._tokens.get(token_id)
        if stored is None:
            self._unknown.put(token_id, self._now() + _UNKNOWN_TTL)
        return stored

    def watch(self, token: Token, on_end: Callable[[], None]) -> Callable[[], None]:
        """Call ON_END once when TOKEN is no longer valid, at most TOKEN_TTL seconds later. Returns what ends the watch.

        However many are watched, they are checked only when one was made or revoked, and read as often as for calls.
        """
        key = object()
        self._watched[key] = (token, on_end)
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch())

        def end() -> None:
            self._watched.pop(key, None)

        return end

    async def load(self) -> None:
        """Read the tokens before the first call. If that is not possible now, calls will try."""
        with suppress(Unavailable):
            await self._begin().wait("", _MAX_WAIT)

    async def close(self) -> None:
        """Read no more. Calls that wait are deferred."""
        tasks = [task for task in (self._reader, self._watcher) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._next is not None:
            self._next.end(_deferred())

    async def _refresh(self, token_id: str, now: float, deadline: float | None) -> None:
        """Have tokens of some age read again, and wait for that only if they are too old to be relied on."""
        age = now - self._read_at
        failed_ago = inf if self._failed is None else now - self._begun_at
        if age < _REFRESH_AFTER or failed_ago < _RETRY_AFTER:
            return
        if age < TOKEN_TTL or failed_ago < _AWAY_SECONDS:
            self._begin()
            return
        try:
            await self._wait(token_id, deadline)
        except LookupDeferred:
            raise
        except Unavailable:
            return  # what was valid stays valid

    async def _wait(self, token_id: str, deadline: float | None, most: float = inf) -> None:
        """Wait for a read that begins from now on, unless calls with MOST other tokens do."""
        read = self._begin()
        seconds = _MAX_WAIT if deadline is None else min(deadline - monotonic(), _MAX_WAIT)
        try:
            if len(read.waiting) >= most and token_id not in read.waiting:
                raise _deferred()
            await read.wait(token_id, seconds)
        except LookupDeferred:
            self.deferred += 1
            raise

    def _begin(self) -> _Read:
        """Have the tokens read once more, if that does not begin soon anyway."""
        if self._next is None:
            self._next = _Read()
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
        return self._next

    async def _read(self) -> None:
        try:
            while (read := self._next) is not None:
                await asyncio.sleep(self._begun_at + 1 / READS_PER_SECOND - self._now())
                self._next = None
                self._begun_at = begun = self._now()
                try:
                    table = await self._source.read(self._version)
                except Exception as error:  # noqa: BLE001 whatever it is, known tokens stay valid
                    read.end(self._fail(error))
                    continue
                self._failed = None
                self._read_at = begun
                if table is not None:
                    self._replace(table)
                read.end()
        finally:
            self._reader = None

    def _fail(self, error: Exception) -> Unavailable:
        """Note how the read failed. Returns what the calls that wait get, of which anybody may have made any.

        All errors are alike, unexpected ones too, such as a damaged index: known tokens stay valid.
        """
        is_expected = isinstance(error, Unavailable)
        failed = error if isinstance(error, Unavailable) else Unavailable(str(error), reason="POLICY_STORE_UNAVAILABLE")
        if self._failed is None:
            _log.warning(
                "tokens that are not in memory cannot be looked up",
                error=failed.message,
                exc_info=None if is_expected else error,
            )
        self._failed = failed
        return Unavailable(_NO_LOOKUP, reason=failed.reason)

    def _replace(self, table: TokenTable) -> None:
        self._version, self._tokens = table
        self.generation += 1
        for key, (token, on_end) in list(self._watched.items()):
            stored = self._tokens.get(token.token_id)
            if stored is None or not stored.accepts(token):
                del self._watched[key]
                on_end()

    async def _watch(self) -> None:
        try:
            while self._watched:
                if not self.fresh and (self._failed is None or self._now() >= self._begun_at + _RETRY_AFTER):
                    self._begin()
                await asyncio.sleep(_WATCH_SECONDS)
        finally:
            self._watcher = None


def _settle(ended: "asyncio.Future[None]", error: Exception | None) -> None:
    if ended.done():
        return
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)
        ended.exception()  # marks it as retrieved: the call may have gone


def _deferred() -> LookupDeferred:
    return LookupDeferred("the token was not looked up in time: too many unknown ones are sent; try again")
