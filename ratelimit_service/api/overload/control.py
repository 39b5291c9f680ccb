"""The bound of calls in flight, and what becomes of calls beyond it."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from time import monotonic
from typing import Final

import structlog

from ratelimit_service.api.fallback import Fallback
from ratelimit_service.api.overload.fair_queue import FairQueue, Generation, Share, Turn, Waiting
from ratelimit_service.api.overload.heavy import HeavyCalls
from ratelimit_service.errors import Overloaded

TARGET: Final = 0.005
"""Seconds that the fastest call of an interval may wait for the server itself: CoDel's target (RFC 8289)."""

INTERVAL: Final = 0.05
"""Seconds after which the bound is adapted."""

_REST: Final = 0.5
"""Seconds between two measurements of the event loop's delay while there are no calls."""

MAX_WAIT: Final = 0.1
"""Seconds for which a call waits for its turn at most, however long its caller would."""

MIN_BOUND: Final = 32
"""Calls in flight that are always allowed."""

MAX_BOUND: Final = 2048
"""Calls in flight that are never exceeded. The bound without overload."""

MAX_WAITING: Final = 1024
"""Calls that wait for their turn at most, of all callers together."""

ENDS_AFTER: Final = 20
"""Intervals without a refusal after which an overload has ended."""

RETRY_AFTER: Final = 1.0
"""Seconds after which a caller that was refused may try again."""

_SWEEP: Final = 0.002
_BUSY: Final = 0.002  # seconds that a timer is late while the event loop has more to do than a few calls
_SHRINK: Final = 0.7
_GROW: Final = 8
_KEPT: Final = 80  # intervals after which counts by caller are dropped that nobody has taken

OVERLOADED: Final = Overloaded("the server has more calls than it can decide in time", retry_after=RETRY_AFTER)
"""The error of every call that is refused. One object: it is raised and encoded thousands of times a second."""

_log = structlog.stdlib.get_logger(__name__)


class Cause(StrEnum):
    """Why a call was refused."""

    DEADLINE = "deadline"
    """It could not have been answered before its deadline."""
    QUEUE_AGE = "queue_age"
    """Its turn did not come in time."""
    IN_FLIGHT = "in_flight"
    """The queue was full."""
    SHARE = "share"
    """The queue was full, and its caller had the most calls in it."""
    SHED = "shed"
    """Envoy refused it before this process saw it."""


class OverloadControl:
    """Decides which calls begin. Not for streams: these answer one group of checks after the other by themselves.

    Up to `bound` calls are in flight; without overload that is never reached, and costs a few additions a call. Beyond
    it calls wait in a fair queue, and are refused with OVERLOADED once what is left until their deadline is no more
    than a call takes now, or after MAX_WAIT. To let them wait costs nothing, and as long as they do their callers,
    which may have few calls in flight on a connection, send no others: a refusal costs a third of a decision or more.

    The bound follows CoDel's rule (Nichols and Jacobson, RFC 8289): a queue that stands is seen by the *shortest* time
    that any call took in an interval. While that is above TARGET, apart from two round trips to the bucket store, which
    are no queue of this server, the bound shrinks; once it is below, the bound grows as long as it is reached. Only
    calls that were answered with OK count for that, so that nobody can hide a queue behind calls that fail at once.

    A call in flight for more than two intervals is no longer counted: callers that do not send the message of a call,
    or a bucket store that does not reply, must not take the place of others.
    """

    def __init__(self, now: Callable[[], float] = monotonic, *, denies: bool = False) -> None:
        """With DENIES, Envoy's methods respond with a denial to calls that are refused."""
        self._now = now
        self._denies = denies
        self._queue = FairQueue()
        self._generation = Generation()
        self._previous = Generation()
        self._shortest = math.inf
        self._round_trip = 0.0
        self._shortest_round_trip = math.inf
        self._waited = False
        self._sweeping: asyncio.TimerHandle | None = None
        self._called: asyncio.Event | None = None
        self._quiet_intervals = ENDS_AFTER
        self._refused_before = 0
        self._began_at = 0.0
        self.heavy = HeavyCalls(OVERLOADED, lambda: self.answered, now)
        """The turns of calls with large messages."""
        self._interval_began = now()
        self._excused: set[asyncio.Task[object] | None] = set()
        self._reading: set[asyncio.Task[object] | None] = set()
        self._untaken = 0
        self.bare_since: Callable[[float], int] = lambda _since: 0
        """How many of the calls that began since then have not sent their message: they are no sign of a queue here."""
        self.waited: Callable[[float], None] = lambda _seconds: None
        """Gets the seconds that each call has waited for its turn, of those that had to."""
        self.overloaded = False
        """Whether calls were refused in the last second."""
        self.in_flight = 0
        """Calls that have begun and not ended, in the last two intervals."""
        self.bound = MAX_BOUND
        """Calls that may be in flight."""
        self.congested = False
        """Whether even the fastest call of the last interval waited more than TARGET for the server itself."""
        self.takes = 0.0
        """Seconds that a call took at least, in the last interval."""
        self.arrived = 0
        """Calls so far that had to wait, or were refused at once."""
        self.answered = 0
        """Calls so far that were answered with OK."""
        self.refused: dict[str, int] = dict.fromkeys(map(str, Cause), 0)
        """Calls refused so far."""
        self.refused_of: dict[object, int] = {}
        """Calls refused or wasted since `take_refused_of`, by caller, or by connection for those who are not known.

        Dropped after some seconds where nobody takes them, as on a transport without a proxy in front.
        """
        self.longest_wait = 0.0
        """Seconds that the oldest call had waited for its turn, at most, in the last interval."""
        self._longest_delay = 0.0

    def fallback(self, fallback: Fallback, denial: bytes) -> Fallback:
        """FALLBACK of one of Envoy's methods, with DENIAL in place of OVERLOADED where that is wanted."""
        if not self._denies:
            return fallback
        return lambda error: denial if isinstance(error, Overloaded) else fallback(error)

    def answered_round_trip(self, seconds: float) -> None:
        """Note a round trip to the bucket store that took so many SECONDS."""
        self._shortest_round_trip = min(self._shortest_round_trip, seconds)

    def begin(self) -> Generation | None:
        """Begin a call, and return what `end` needs; None if there are too many in flight: it has to `wait`."""
        return self._begin() if self.in_flight < self.bound else None

    def end(self, generation: Generation, seconds: float | None) -> None:
        """End a call that began in GENERATION. SECONDS is what it took, None if it was not answered with OK."""
        generation.count -= 1
        if not generation.written_off:
            self.in_flight -= 1
        if seconds is not None:
            self.answered += 1
            if not self._excused or asyncio.current_task() not in self._excused:
                self._shortest = min(self._shortest, seconds)
        if self._waited and self._queue:
            self._admit()

    @asynccontextmanager
    async def excuse(self) -> AsyncGenerator[None]:
        """A block in which the call that runs waits for what is no queue of this server: that somebody reads its keys.

        Whoever makes up keys would otherwise have it refuse others' calls, since all of his take long. A heavy call has
        no place meanwhile, and waits for its turn again at the end: it may be refused then. The block has to run in the
        task that ends the call.
        """
        task = asyncio.current_task()
        self._excused.add(task)
        self._reading.add(task)
        place = self.heavy.place_of(task)
        try:
            if place is None:
                yield
            else:
                async with self.heavy.aside(place):
                    yield
        finally:
            self._reading.discard(task)

    @property
    def refusals(self) -> Mapping[str, int]:
        """Calls refused so far, by cause."""
        return self.refused

    def check_open(self, share: Share) -> None:
        """Raise Overloaded if a stream may not be opened now, since calls wait: it may be long, so it has no turn."""
        if self._queue:
            self._count(Cause.IN_FLIGHT, share)
            raise OVERLOADED

    def wait(self, share: Share, deadline: float | None) -> "Turn | None":
        """Let a call wait for its turn. None if it is refused at once.

        DEADLINE is the monotonic time in seconds until which its caller waits, None if for any time.
        """
        self._waited = True
        self.arrived += 1
        now = self._now()
        if deadline is not None and deadline - now <= self.takes:
            self._count(Cause.DEADLINE, share)
            return None
        queue = self._queue
        if len(queue) >= MAX_WAITING:
            cause = Cause.SHARE if queue.shared else Cause.IN_FLIGHT
            self._refuse(queue.remove_from_long_queue(share), cause)
        turn: Turn = asyncio.get_running_loop().create_future()
        call = Waiting(turn, now, deadline, share)
        queue.push(share, call)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(_SWEEP, self._sweep)
        return turn

    def count_wasted(self, connection: object) -> None:
        """Count a call of this CONNECTION that was begun for nothing: its caller had gone."""
        self.refused_of[connection] = self.refused_of.get(connection, 0) + 1

    def take_refused_of(self) -> dict[object, int]:
        """The calls refused since the last time, by caller or connection."""
        taken, self.refused_of, self._untaken = self.refused_of, {}, 0
        return taken

    def take_longest_delay(self) -> float:
        """Seconds that the event loop was late at most, for having more to do, since the last time."""
        taken, self._longest_delay = self._longest_delay, 0.0
        return taken

    async def run(self) -> None:
        """Adapt the bound every INTERVAL, until cancelled. While there are no calls there is nothing to adapt to."""
        due = self._now()
        while True:
            due = max(due + INTERVAL, self._now())
            await asyncio.sleep(due - self._now())
            self.adapt(self._now() - due)
            if not (self.in_flight or self._queue or self.takes or self.overloaded or self.refused_of):
                await self._rest()
                due = self._now()

    def adapt(self, late: float) -> None:
        """Adapt the bound to the interval that has ended, so many seconds LATE because the event loop was busy."""
        self._longest_delay = max(self._longest_delay, late)
        begun = self._write_off()
        self._excused = {task for task in self._excused if task is not None and not task.done()}
        if begun:
            begun = max(begun - self.bare_since(self._interval_began) - len(self._reading), 0)
        self._interval_began = self._now()
        shortest, self._shortest = self._shortest, math.inf
        if self._shortest_round_trip < math.inf:
            self._round_trip, self._shortest_round_trip = self._shortest_round_trip, math.inf
        if shortest < math.inf:
            self.takes = shortest
        elif not begun and not self._queue:
            self.takes = 0.0
        if shortest < math.inf and shortest - 2 * self._round_trip <= TARGET:
            self.congested = False
            if self._waited:
                self.bound = min(MAX_BOUND, self.bound + max(1, self.bound // _GROW))
        elif shortest < math.inf or (begun and late > _BUSY):
            self.congested = True
            reached = min(self.bound, max(self.in_flight, MIN_BOUND))
            self.bound = max(MIN_BOUND, int(reached * _SHRINK))
        self._untaken += 1
        if self._untaken > _KEPT:
            self.take_refused_of()
        self.longest_wait = 0.0
        self._waited = bool(self._queue)
        self._admit()
        self._report()

    async def _rest(self) -> None:
        """Wait for a call. An idle server is woken ten times less for it."""
        self._called = called = asyncio.Event()
        while not called.is_set():
            due = self._now() + _REST
            with suppress(TimeoutError):
                async with asyncio.timeout(_REST):
                    await called.wait()
            self._longest_delay = max(self._longest_delay, self._now() - due)
        self._called = None

    def _begin(self) -> Generation:
        if self._called is not None:
            self._called.set()
        self.in_flight += 1
        generation = self._generation
        generation.count += 1
        return generation

    def _write_off(self) -> int:
        """Begin a new generation and no longer count the last but one. Returns how many of the last have not ended."""
        previous = self._previous
        previous.written_off = True
        self.in_flight -= previous.count
        self._previous, self._generation = self._generation, Generation()
        return self._previous.count

    def _admit(self) -> None:
        """Let calls begin as far as the bound allows."""
        queue = self._queue
        while queue and self.in_flight < self.bound:
            now = self._now()
            call = queue.pop(newest=self._late(now))
            if call.turn.done():
                continue
            if call.deadline is not None and call.deadline - now <= self.takes:
                self._refuse(call, Cause.DEADLINE)
            else:
                call.turn.set_result(self._begin())
                self.waited(now - call.since)

    def _late(self, now: float) -> bool:
        """Whether the call that has waited longest is at risk: those that come after it wait too long too.

        Then the newest call is next, which has the most time left (adaptive LIFO: Maurer, "Fail at Scale", ACM Queue
        2015): to serve the oldest would make every call late by the same time.
        """
        oldest = self._queue.oldest()
        if oldest is None or oldest.deadline is None:
            return False
        return oldest.deadline - now <= 2 * self.takes + _SWEEP

    def _sweep(self) -> None:
        """Refuse the calls that would soon be too late, in the order of their age."""
        self._sweeping = None
        queue = self._queue
        now = self._now()
        while (call := queue.oldest()) is not None:
            waited = now - call.since
            self.longest_wait = max(self.longest_wait, waited)
            if waited < MAX_WAIT and (call.deadline is None or call.deadline - now > self.takes + _SWEEP):
                self._sweeping = asyncio.get_running_loop().call_later(_SWEEP, self._sweep)
                return
            queue.remove(call)
            self._refuse(call, Cause.QUEUE_AGE)

    def _refuse(self, call: Waiting, cause: Cause) -> None:
        if not call.turn.done():
            call.turn.set_result(None)
            self.waited(self._now() - call.since)
            self._count(cause, call.share)

    def _count(self, cause: Cause, share: Share) -> None:
        self.refused[cause] += 1
        key = share.caller or share.connection
        self.refused_of[key] = self.refused_of.get(key, 0) + 1

    def _report(self) -> None:
        """Log when an overload begins and when it has ended."""
        refused = sum(self.refused.values())
        if refused > self._refused_before:
            self._quiet_intervals = 0
            if not self.overloaded:
                self.overloaded = True
                self._began_at = self._now()
                _log.warning("overload begins: calls are refused", in_flight=self.in_flight, bound=self.bound)
        elif self.overloaded:
            self._quiet_intervals += 1
            if self._quiet_intervals >= ENDS_AFTER:
                self.overloaded = False
                seconds = round(self._now() - self._began_at, 1)
                _log.warning("overload has ended", seconds=seconds, refused_since_start=dict(self.refused))
        self._refused_before = refused
