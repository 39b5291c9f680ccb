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

MAX_WAIT: Final = 1.0
"""Seconds for which a heavy call waits for its turn at most, however long its caller would."""

_PAUSE: Final = 2
_BEGUN: Final = Generation()


class HeavyCalls:
    """The turns of heavy calls: those of all connections in fair order, and AT_ONCE of them at a time.

    To decide one takes milliseconds, in which nobody else is served. Of those that take turns, an ordinary call meets
    AT_ONCE at most, however many there are, and they wait for each other rather than it for them. After one beside
    which others were answered, its place stays free for twice the time that it took.
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

    @asynccontextmanager
    async def turn(self, share: Share, deadline: float | None) -> AsyncGenerator[None]:
        """Wait for the turn of a call of SHARE whose caller waits until DEADLINE (monotonic), and hold it.

        Raises DeadlineExceeded, and Overloaded if too many wait or it has waited for too long.
        """
        if self._under_way >= AT_ONCE:
            await self._wait(share, deadline)
        else:
            self._under_way += 1
        began, answered = self._now(), self._answered()
        try:
            yield
        finally:
            if self._answered() - answered > AT_ONCE:
                asyncio.get_running_loop().call_later(_PAUSE * (self._now() - began), self._end)
            else:
                self._end()

    def _end(self) -> None:
        """Give a place to the call whose turn it is."""
        self._under_way -= 1
        self._next()

    async def _wait(self, share: Share, deadline: float | None) -> None:
        if len(self._queue) >= MAX_WAITING:
            _refuse(self._queue.remove_from_long_queue(share))
        turn: Turn = asyncio.get_running_loop().create_future()
        until = self._now() + MAX_WAIT
        self._queue.push(share, Waiting(turn, self._now(), until if deadline is None else min(until, deadline), share))
        try:
            begun = await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result() is not None:
                self._end()
            raise
        if begun is None:
            raise deadline_passed() if deadline is not None and self._now() >= deadline else self._overloaded

    def _next(self) -> None:
        """Begin the calls whose turn it is, and give up those that have waited for too long."""
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
