"""Units of calls that the service has granted, and how many more to ask for.

Times are nanoseconds of the client's clock. All is written under the lock of the `GrantBook`; only the units are taken
without it, by `next` of an iterator that is written in C, which gives each of them to one thread. A lock would cost as
much as all the rest of a decision.
"""

from collections import deque
from collections.abc import Iterator
from itertools import repeat
from operator import length_hint
from typing import NamedTuple

from ._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitResponse
from .decision import Decision

MAX_UNITS = 1_000_000
"""Of one grant."""

MS = 1_000_000
"""Nanoseconds."""

_MAX_PORTION = 10_000
"""Units that can be taken without the lock before more are put there. What is left of them is counted by taking it."""
_GROWTH = 4
"""A grant has at most so many times the units of the last: a few calls in one moment are no demand that lasts."""
_ROUND_TRIPS = 3
"""Of demand, for which units have to last when more are asked for."""
_IDLE_GAPS = 8
_MIN_IDLE = 10 * MS
_MIN_ELAPSED = MS
_OFTEN = 4
"""Calls within the horizon, for which more units are asked for before others expire."""


class Held:
    """A grant of so many UNITS, until it EXPIRES. DECISION is what each call gets that takes one."""

    __slots__ = ("_decision", "_rest", "expires", "grant_id", "units")

    def __init__(self, grant_id: str, units: int, expires: int, decision: Decision | None) -> None:
        self.grant_id = grant_id
        self.expires = expires
        self.units: Iterator[Decision] = iter(())
        """What can be taken now, by `next`."""
        self._rest = units
        self._decision = decision

    @property
    def left(self) -> int:
        """Units that are left."""
        return length_hint(self.units) + self._rest

    def refill(self, reserve: int) -> int:
        """Have more of them taken, but the last RESERVE apart from the others. Returns how many are left."""
        if self._rest and self._decision is not None:
            portion = min(_MAX_PORTION, self._rest - reserve if self._rest > reserve else self._rest)
            self._rest -= portion
            self.units = repeat(self._decision, portion)
        return self.left

    def end(self) -> int:
        """Have no more of them taken. Returns how many are left: no thread gets one of these any more."""
        left = len(list(self.units)) + self._rest
        self._rest = 0
        return left


_NONE = Held("", 0, -(2**63), None)
"""Where there is no grant."""


class Ended(NamedTuple):
    """What became of a grant: UNUSED units of it were not spent, because it had EXPIRED, or for another reason."""

    grant_id: str
    unused: int
    expired: bool


class Denial(NamedTuple):
    """A denial of the service, received AT a time, by which calls without units are denied UNTIL another."""

    message: CheckLimitResponse
    at: int
    until: int


class Demand:
    """How many calls come in a second, and so how many units to ask for."""

    __slots__ = ("_calls", "_last", "_per_ns", "_since")

    def __init__(self, now: int) -> None:
        self._per_ns = 0.0
        self._since = now
        self._calls = 0
        self._last = 1

    @property
    def gap(self) -> float:
        """The mean time between two calls. Infinite until there were two."""
        return 1 / self._per_ns if self._per_ns else float("inf")

    def within(self, time: int) -> float:
        """The calls that come within a TIME."""
        return self._per_ns * time

    def wants(self, now: int, calls: int, waiting: int, horizon: int) -> int:
        """The units to ask for, after so many CALLS in all: for those WAITING, and those that come within the HORIZON.

        Demand rises at once, and falls by the part of the horizon that has passed since the last request.
        """
        if self._calls and horizon:
            elapsed = max(now - self._since, _MIN_ELAPSED)
            more = max(calls - self._calls, 0) / elapsed - self._per_ns
            self._per_ns += more if more > 0 else more * min(1.0, elapsed / horizon)
        self._since, self._calls = now, calls
        expected = min(int(self._per_ns * horizon + 0.5), _GROWTH * self._last)
        return min(max(expected + waiting, 1), MAX_UNITS)

    def granted(self, units: int) -> None:
        """So many UNITS came, 1 or more."""
        self._last = units

    def copy(self, now: int) -> "Demand":
        """The same demand, of other calls from now on."""
        other = Demand(now)
        other._per_ns, other._last = self._per_ns, self._last
        return other


class Pool:
    """The units of one key for calls of one cost, and for all resources that begin with a prefix."""

    __slots__ = (
        "_checked",
        "_checked_at",
        "_granted",
        "_queue",
        "_reserve",
        "_unused",
        "checked_until",
        "cost",
        "demand",
        "denial",
        "denied",
        "held",
        "horizon",
        "prefix",
        "resource",
        "short",
        "wants_more",
    )

    def __init__(self, resource: str, cost: int, now: int) -> None:
        self.resource = resource
        """The one that grants are asked for."""
        self.cost = cost
        self.prefix: str | None = None
        """None: the units are good for its own resource alone, as far as is known."""
        self.held = _NONE
        """The grant to take units of: the oldest."""
        self.horizon = 0
        """The time for which units are asked for: half of the last `ttl`. 0 before the first grant."""
        self.demand = Demand(now)
        self.denial: Denial | None = None
        """That by which calls without units are denied, once it was one."""
        self.short: Denial | None = None
        """That of calls that wait too long. None unless the last response had fewer units than were wanted."""
        self.denied = 0
        """Calls that were denied so far."""
        self.checked_until = 0
        """Until when calls are checked one by one."""
        self.wants_more = False
        """Whether so few units are left that more are to be asked for."""
        self._queue: deque[Held] = deque()
        self._reserve = 0
        self._granted = self._unused = 0
        self._checked, self._checked_at = -1, now

    @property
    def left(self) -> int:
        """Units that are held, those included that have expired since."""
        return self.held.left + sum(held.left for held in self._queue)

    @property
    def spent(self) -> int:
        """Units that were spent so far."""
        return self._granted - self._unused - self.left

    @property
    def granted(self) -> int:
        """All units so far."""
        return self._granted

    @property
    def is_empty(self) -> bool:
        """Whether there is no grant."""
        return self.held is _NONE

    def covers(self, resource: str) -> bool:
        """Whether the units are good for RESOURCE."""
        return resource == self.resource if self.prefix is None else resource.startswith(self.prefix)

    def add(self, held: Held, *, short: bool, round_trip: int) -> None:
        """One more grant. SHORT: a limit had less than was wanted. ROUND_TRIP is how long it takes to ask for one."""
        units = held.left
        self._granted += units
        self.demand.granted(units)
        # A client that got less than it wanted asks again when a call needs a unit: the limit has little left.
        lasts = max(self.horizon // 4, _ROUND_TRIPS * round_trip)
        self._reserve = min(int(self.demand.within(lasts)), units // 2) if not short else 0
        self.wants_more = False
        if self.held is _NONE:
            self._begin(held)
        else:
            self._queue.append(held)

    def mark(self, now: int) -> None:
        """Have `is_idle` be about the time from now on."""
        self._checked, self._checked_at = self.spent, now

    def take(self, now: int, ended: list[Ended]) -> Decision | None:
        """One unit, None if there is none. Appends to ENDED what became of grants that have no more."""
        while (held := self.held) is not _NONE:
            if now < held.expires:
                unit = next(held.units, None)
                if unit is not None:
                    return unit
                left = self._refill(held)
                if left:
                    continue
            self._end(ended, expired=now >= held.expires)
        return None

    def expire(self, now: int, ended: list[Ended]) -> None:
        """End the grants that have no more units, as `take` does."""
        while (held := self.held) is not _NONE and (now >= held.expires or not held.left):
            self._end(ended, expired=now >= held.expires)

    def release(self, ended: list[Ended]) -> None:
        """End all grants, as `take` does."""
        while self.held is not _NONE:
            self._end(ended, expired=False)
        self.wants_more = False

    def is_idle(self, now: int) -> bool:
        """Whether no unit was spent for so long that they are better returned."""
        if self._checked_at + self._idle_time > now:
            return False
        before = self._checked
        self.mark(now)
        return before == self._checked

    def ends(self, now: int, margin: int) -> bool:
        """Whether the units are about to expire, within MARGIN, while calls that need some come often."""
        often = self.demand.within(self.horizon) >= _OFTEN
        return often and not self._queue and self.held.expires - margin <= now < self.held.expires

    def next_check(self, margin: int) -> int:
        """When it may be idle, or its units are about to expire, MARGIN before that."""
        return min(self._checked_at + self._idle_time, self.held.expires - margin)

    @property
    def _idle_time(self) -> int:
        gaps = self.demand.gap * _IDLE_GAPS
        return max(_MIN_IDLE, self.horizon // 4, int(min(gaps, 4 * self.horizon)))

    def _begin(self, held: Held) -> None:
        self._refill(held)
        self.held = held

    def _refill(self, held: Held) -> int:
        is_last = not self._queue
        left = held.refill(self._reserve if is_last else 0)
        if is_last and 0 < left <= self._reserve:
            self.wants_more = True
        return left

    def _end(self, ended: list[Ended], *, expired: bool) -> None:
        held, self.held = self.held, _NONE
        unused = held.end()
        self._unused += unused
        ended.append(Ended(held.grant_id, unused, expired))
        if self._queue:
            self._begin(self._queue.popleft())
