"""What the store has denied lately, so that the same calls are denied without it until they may fit (docs/adr/0041)."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from time import monotonic
from typing import Final

from ratelimit_service.decision.charge import NEVER, UNCHANGED, Bucket, Charge, ChargeResult, Exhausted, LimitResult
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.decision.outcome import wait_for
from ratelimit_service.decision.ports import Change

MAX_SECONDS: Final = 1.0
"""For which a denial is remembered at most, from when its charge was sent."""

MAX_REMEMBERED: Final = 10_000
"""Buckets of denials that are remembered, in some 1 KiB each. Those remembered longest ago are forgotten first."""

MAX_RETURNED: Final = 10_000
"""Buckets to which something was returned lately. Beyond it, no charge that is under way now is remembered."""

_CAUTION: Final = 0.999
"""Of a wait, the part in which nothing can fit although one clock runs faster than the other, which is being set."""

_PASSED: Final = 2
"""Denials that are over are forgotten with each new one, so that they never pile up."""


class _Denial:
    """A denial as the store's reply has it, which came at `answered`, true until `until`: monotonic times in seconds.

    It denies what costs as much or more. `waiting` are the positions of the buckets that wait.
    """

    __slots__ = ("answered", "costs", "results", "until", "waiting")

    def __init__(
        self,
        costs: tuple[int, ...],
        results: tuple[LimitResult, ...],
        waiting: tuple[int, ...],
        until: float,
        now: float,
    ) -> None:
        self.costs = costs
        self.results = results
        self.waiting = waiting
        self.until = until
        self.answered = now


class DenialMemory:
    """Denials that only time ends, by the buckets of their charges: the same objects, so a new policy has none.

    A charge is denied from memory for as long as the store would certainly deny it, unless something was returned to
    its buckets meanwhile: who hears of that says so by `forget`. Nothing is remembered before `listen` and after
    `deafen`. A denial lasts for MAX_SECONDS at most all the same, since a message may be lost.

    `now()` is the monotonic time in seconds. `most` is how many buckets are remembered.
    """

    def __init__(self, now: Callable[[], float] = monotonic, most: int = MAX_REMEMBERED) -> None:
        self.now = now
        self._most = most
        self._denials: OrderedDict[tuple[Bucket, ...], _Denial] = OrderedDict()
        self._buckets = 0  # of all denials
        self._of_bucket: dict[str, set[tuple[Bucket, ...]]] = {}  # those in which a bucket of this name waits
        self._returned: dict[str, float] = {}
        self._since = 0.0
        self.on_forgotten: Callable[[], None] = _nothing
        """Called when denials may have ended because of what was heard, for who gives the same again meanwhile."""
        self.listening = False
        """Whether it hears what is returned to buckets, and so remembers denials."""
        self.heard = 0
        """Buckets so far to which something was returned, as far as it was heard of."""

    @property
    def size(self) -> int:
        """The buckets of all that is remembered, of denials too that are over by now."""
        return self._buckets

    def find(self, charge: Charge) -> ChargeResult | None:
        """The denial of CHARGE if the store would deny it now, its waits shortened by its age; else None.

        CHARGE takes something from each of its buckets, and neither reserves nor is made afterwards.
        """
        denial = self._denials.get(charge[0])
        if denial is None:
            return None
        now = self.now()
        if now >= denial.until:
            return None
        results = denial.results
        if charge[1] != denial.costs:
            costs, known = charge[1], denial.costs
            for position in denial.waiting:
                if costs[position] < known[position]:
                    self._remove(charge[0])  # it may be charged now: then what costs more waits for longer
                    return None
            results = _raised(charge, denial)
        age = int((now - denial.answered) * MICRO)
        new = tuple.__new__
        if len(results) == 1:  # the common case, without a loop
            ((remaining, wait, reset),) = results
            left = (remaining, wait - age if wait > 0 else wait, reset - age if reset > age else 0)
            aged: tuple[LimitResult, ...] = (new(LimitResult, left),)
        else:
            aged = tuple(
                [
                    new(LimitResult, (remaining, wait - age if wait > 0 else wait, reset - age if reset > age else 0))
                    for remaining, wait, reset in results
                ]
            )
        return new(ChargeResult, (False, aged, 0, 0, UNCHANGED))

    def holds_until(self, charge: Charge) -> float:
        """Until when a CHARGE that is denied from memory now will be, a monotonic time in seconds, as far as is known.

        0 if it may be charged.
        """
        denial = self._denials.get(charge[0])
        return 0.0 if denial is None else denial.until

    def remember(self, charge: Charge, result: Exhausted, sent: float) -> None:
        """Remember the denial of CHARGE, which was sent at SENT or later, a monotonic time in seconds."""
        if not self.listening or sent <= self._since:
            return
        buckets, costs = charge[0], charge[1]
        results = result.limit_results
        waiting = tuple([position for position, (_, wait, _) in enumerate(results) if wait])
        lasts = MAX_SECONDS
        for position in waiting:
            if sent <= self._returned.get(buckets[position].name, -1.0):
                return  # perhaps after the store has denied it
            wait = results[position].wait_us
            if wait != NEVER:
                lasts = min(lasts, wait / MICRO)
        now, until = self.now(), sent + lasts * _CAUTION
        if now >= until or len(buckets) > self._most:
            return
        if buckets in self._denials:
            self._remove(buckets)
        self._make_room(len(buckets), now)
        self._denials[buckets] = _Denial(costs, results, waiting, until, now)
        self._buckets += len(buckets)
        for position in waiting:
            self._of_bucket.setdefault(buckets[position].name, set()).add(buckets)

    def forget(self, names: Iterable[str]) -> None:
        """Forget the denials by buckets of these NAMES: something was returned to them, before now."""
        now = self.now()
        for name in names:
            self.heard += 1
            self._returned[name] = now
            for buckets in list(self._of_bucket.get(name, ())):
                self._remove(buckets)
        if len(self._returned) > MAX_RETURNED:
            self._returned.clear()
            self._since = now
        self.on_forgotten()

    async def apply(self, _changes: Collection[Change]) -> None:
        """Note that keys, plans or rules have changed. Their buckets are other objects now, so nothing is forgotten."""
        self.on_forgotten()

    async def refresh_all(self) -> None:
        """Note that any of them may have changed."""
        self.on_forgotten()

    async def recompile(self) -> None:
        """Note that limits refuse now, or do not any more."""
        self.on_forgotten()

    def listen(self) -> None:
        """Remember what is sent from now on: from now on it is heard what is returned."""
        self.listening, self._since = True, self.now()

    def deafen(self) -> None:
        """Forget everything, and remember nothing: it is not heard any more what is returned."""
        self.listening = False
        self._denials.clear()
        self._of_bucket.clear()
        self._returned.clear()
        self._buckets = 0
        self.on_forgotten()

    def _make_room(self, wanted: int, now: float) -> None:
        passed = 0
        while self._denials:
            oldest = next(iter(self._denials))
            passed += 1
            is_over = passed <= _PASSED and self._denials[oldest].until <= now
            if not is_over and self._buckets + wanted <= self._most:
                return
            self._remove(oldest)

    def _remove(self, buckets: tuple[Bucket, ...]) -> None:
        denial = self._denials.pop(buckets)
        self._buckets -= len(buckets)
        for position in denial.waiting:
            name = buckets[position].name
            having = self._of_bucket.get(name)
            if having is not None:
                having.discard(buckets)
                if not having:
                    del self._of_bucket[name]


def _nothing() -> None:
    """For a memory whose denials nobody gives to others."""


def _raised(charge: Charge, denial: _Denial) -> tuple[LimitResult, ...]:
    """The results of a charge that costs more than the one that was denied, by the store's reply on each bucket."""
    return tuple(
        [
            result if cost == known else result._replace(wait_us=wait_for(bucket.limit, result, cost))
            for bucket, cost, known, result in zip(
                charge.buckets, charge.costs, denial.costs, denial.results, strict=True
            )
        ]
    )
