"""Calls that cost as much as a hundred others, by the size of their message: they take turns."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final

from ratelimit_service.api.messages import deadline_passed
from ratelimit_service.api.overload.fair_queue import FairQueue, Generation, Share, Turn, Waiting
from ratelimit_service.errors import Overloaded

HEAVY_BYTES: Final = 1024
"""Bytes of a message from which on its call is heavy: some 12 checks, or 30 descriptors with one short entry."""

AT_ONCE: Final = 2
"""Heavy calls that are decided at a time: while one waits for the bucket store, the other one is prepared."""

MAX_WAITING: Final = 256
"""Heavy calls that wait for their turn at most, of all connections together."""

MAX_ASIDE: Final = 256
"""Heavy calls without a place at most whose keys are being read, each with some 64 KiB that it has sent."""

MAX_WAIT: Final = 1.0
"""Seconds for which a heavy call waits for its turn at most, however long its caller would."""

_PAUSE: Final = 2
_EARLY: Final = 0.002  # seconds by which a timer may fire before its time
_BEGUN: Final = Generation()


class Place:
    """One of the AT_ONCE places, or the lack of it while the call that had it is aside."""

    __slots__ = ("answered", "deadline", "held", "share", "since")

    def __init__(self, share: Share, deadline: float | None) -> None:
        """For a call of SHARE whose caller waits until DEADLINE (monotonic)."""
        self.share = share
        self.deadline = deadline
        self.held = False
        self.since = 0.0
        self.answered = 0


class HeavyCalls:
    """The turns of heavy calls: those of all connections in fair order, and AT_ONCE of them at a time.

    To decide one takes milliseconds, in which nobody else is served. Of those that take turns, an ordinary call meets
    AT_ONCE at most, however many there are, and they wait for each other rather than it for them. After one beside
    which others were answered, its place stays free for twice the time that it took.

    A call whose keys have to be read from Postgres is aside meanwhile: it has no place, and waits for its turn again
    before it is decided. Otherwise two calls with made-up keys would hold up those of everybody.
    """

    def __init__(
        self, overloaded: Overloaded, answered: Callable[[], int], now: Callable[[], float] = monotonic
    ) -> None:
        """OVERLOADED is raised for those that are refused. ANSWERED returns how many calls were, so far."""
        self._overloaded = overloaded
        self._answered = answered
        self._now = now
        self._queue = FairQueue()
        self._under_way = 0
        self._aside = 0
        self._places: dict[asyncio.Task[object] | None, Place] = {}

    @asynccontextmanager
    async def turn(self, share: Share, deadline: float | None) -> AsyncGenerator[None]:
        """Wait for the turn of a call of SHARE whose caller waits until DEADLINE (monotonic), and hold it.

        Raises DeadlineExceeded, and Overloaded if too many wait or it has waited for too long.
        """
        place = Place(share, deadline)
        await self._take(place)
        task = asyncio.current_task()
        self._places[task] = place
        try:
            yield
        finally:
            del self._places[task]
            if place.held:
                self._release(place)

    def place_of(self, task: asyncio.Task[object] | None) -> Place | None:
        """The place of the heavy call that runs in TASK, None if none does."""
        return self._places.get(task)

    @asynccontextmanager
    async def aside(self, place: Place) -> AsyncGenerator[None]:
        """Let others have this PLACE while the block waits, and wait for its call's turn again.

        If the block raises, the call goes on without: what is left of it is a response. Raises what `turn` does.
        """
        if self._aside >= MAX_ASIDE:
            raise self._overloaded
        if place.held:
            self._release(place)
        self._aside += 1
        try:
            yield
        finally:
            self._aside -= 1
        await self._take(place)

    async def _take(self, place: Place) -> None:
        if self._under_way >= AT_ONCE:
            await self._wait(place.share, place.deadline)
        else:
            self._under_way += 1
        place.held, place.since, place.answered = True, self._now(), self._answered()

    def _release(self, place: Place) -> None:
        """Have the place be the next call's, after a pause if others were answered beside the one that had it."""
        place.held = False
        if self._answered() - place.answered > AT_ONCE:
            asyncio.get_running_loop().call_later(_PAUSE * (self._now() - place.since), self._end)
        else:
            self._end()

    def _end(self) -> None:
        """Give a place to the call whose turn it is."""
        self._under_way -= 1
        self._next()

    async def _wait(self, share: Share, deadline: float | None) -> None:
        if len(self._queue) >= MAX_WAITING:
            _refuse(self._queue.remove_from_long_queue(share))
        now = self._now()
        until = now + MAX_WAIT if deadline is None else min(now + MAX_WAIT, deadline)
        turn: Turn = asyncio.get_running_loop().create_future()
        call = Waiting(turn, now, until, share)
        self._queue.push(share, call)
        begun = None
        try:
            async with asyncio.timeout(until - now):
                begun = await self._begun(call)
        except TimeoutError:
            pass
        if begun is None:
            late = deadline is not None and self._now() >= deadline - _EARLY
            raise deadline_passed() if late else self._overloaded

    async def _begun(self, call: Waiting) -> Generation | None:
        """Wait for the turn of a CALL in the queue. None if it is refused."""
        turn = call.turn
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result() is not None:
                self._end()
            raise
        finally:
            self._queue.remove(call)

    def _next(self) -> None:
        """Begin the calls whose turn it is, and refuse those that have waited for too long."""
        queue = self._queue
        while queue and self._under_way < AT_ONCE:
            call = queue.pop(newest=False)
            if call.turn.done():
                continue
            if call.deadline is not None and call.deadline <= self._now():
                _refuse(call)
            else:
                self._under_way += 1
                call.turn.set_result(_BEGUN)


def _refuse(call: Waiting) -> None:
    if not call.turn.done():
        call.turn.set_result(None)
