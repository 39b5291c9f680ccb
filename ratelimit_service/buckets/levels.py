"""What a worker saw of the levels of buckets in the store's results: where LOCAL starts from when the store is away.

A result has what remains of a bucket, and so what everybody has used of it. What the level rose between two results,
with what drained in between added, is what everybody charged; what of it this worker charged itself is its share.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from time import monotonic
from typing import Final, NamedTuple

from ratelimit_service.decision.charge import (
    Bucket,
    Charge,
    ChargeResult,
    Grant,
    Granted,
    LimitResult,
    Reserve,
    Returned,
)
from ratelimit_service.decision.limit import MICRO, Concurrency, Limit, Quota, TokenBucket
from ratelimit_service.decision.window import LONG_WINDOWS

MAX_LEVELS: Final = 100_000
"""Buckets of keys and rules whose levels are kept, some 1,000 bytes each with what a store caches of the bucket. Those
first seen longest ago are forgotten first."""

MAX_CHOSEN_LEVELS: Final = 20_000
"""Buckets of values that callers choose, the same: who makes values up has no others forgotten, and 20 MB at most."""

MIN_STEP_SECONDS: Final = 0.25
MAX_STEP_SECONDS: Final = 5.0
"""Between two measurements of what everybody charged: within these, a quarter of the time in which the bucket drains.
What others charge, and what drains of it before the next one, is not noticed; of a quota nothing drains."""

GENERATION_SECONDS: Final = 30.0
"""A share is that of the last one to two generations."""

PRIOR_TOKENS: Final = 10
"""Everybody's charges that are assumed to be spread evenly over the servers, beside those that were seen."""

MAX_DENIED: Final = 1_024
"""Quotas that denied a call lately, which are raised first when the store has lost its data."""

SAME_WINDOW_SECONDS: Final = 60.0
"""Two results whose windows end within so many seconds of each other are of one window: it takes an hour at least."""

_MAX_TERMS: Final = 1_000
"""Limits of which is kept what their levels have in common."""

_NONE: Final = LimitResult(0, 0, 0)
_NOTHING: Final = (0, 0.0, 0.0)


class SeenQuota(NamedTuple):
    """So many micro-tokens of a quota were used in the window that ends at the monotonic time `ends`, in seconds."""

    bucket: Bucket
    used: int
    ends: float


class _Terms(NamedTuple):
    """What the levels of all buckets of one limit have in common.

    `full`: micro-tokens. `rate`: micro-tokens that drain in a second; 0 of a quota. `step`: seconds between two
    measurements. `long`: whether it is a quota of an hour and longer.
    """

    full: int
    rate: float
    step: float
    long: bool


class Level:
    """The level of one bucket, as this worker last saw it, and who charged it.

    `result` is the last result, for `bucket`, at the monotonic time `at`. Since the generation began at `since`: `own`
    tokens were charged by this worker; `total` micro-tokens by everybody, at least; `unused` micro-tokens would have
    drained if the bucket had been charged more. All of it is as of the last measurement, after which this worker has
    `charged` more tokens, less what it returned of reservations. `before` is the same of the generation before. The
    next measurement is `due`. `closes` is when the window of a quota ended then.

    `terms` are those of its limit. Of a quota of an hour and longer, `peak` is the most that measurements and denials
    have seen used of it in the window that ends at `ends`. `noted`: whether there is nothing to note at the next
    denial.
    """

    __slots__ = (
        "at",
        "before",
        "bucket",
        "charged",
        "closes",
        "due",
        "ends",
        "mark",
        "marked_at",
        "noted",
        "own",
        "peak",
        "result",
        "since",
        "terms",
        "total",
        "unused",
    )

    def __init__(self, bucket: Bucket, now: float) -> None:
        self.show(bucket)
        self.result = _NONE
        self.at = self.since = self.due = now
        self.mark, self.marked_at = 0, now - 2 * GENERATION_SECONDS  # as if it had been seen long ago
        self.charged = self.own = 0
        self.total = self.unused = 0.0
        self.before: tuple[int, float, float] = _NOTHING
        self.peak, self.ends = 0, 0.0
        self.closes = 0.0

    def show(self, bucket: Bucket) -> None:
        """The results are of this one from now on."""
        self.bucket = bucket
        self.terms = _terms_of(bucket.limit)
        self.noted = not self.terms.long

    @property
    def used(self) -> int:
        """Micro-tokens that were used at `at`."""
        return self.terms.full - self.result[0]

    def measure(self, now: float) -> None:
        """Add what everybody charged since the last measurement."""
        mark, elapsed = self.mark, now - self.marked_at
        self.mark = used = self.terms.full - self.result[0]
        self.marked_at, self.due = now, now + self.terms.step
        closes, self.closes = self.closes, now + self.result[2] / MICRO
        self.own, self.charged = self.own + self.charged, 0
        if self.terms.long:
            self.note(now)
            self.noted = False
        if elapsed > GENERATION_SECONDS:  # nothing is known of what happened meanwhile
            self._start(now, _NOTHING)
            return
        if self.terms.rate:
            left = mark - elapsed * self.terms.rate
            if left > 0:
                self.total += used - left
            else:
                self.total += used
                self.unused -= left
        else:
            begun = used == 0 or self.closes > closes + MIN_STEP_SECONDS
            self.total += used if begun else used - mark  # which is negative if more was returned than charged
        if now - self.since > GENERATION_SECONDS:
            self._start(now, (self.own, self.total, self.unused))

    def note(self, now: float) -> None:
        """Note what is used of a quota: in one window the most, since a store that has less has lost it."""
        used, ends = self.terms.full - self.result[0], now + self.result[2] / MICRO
        self.noted = True
        if self.result[2] and (ends > self.ends + SAME_WINDOW_SECONDS or now >= self.ends):
            self.peak, self.ends = used, ends
        elif used > self.peak:
            self.peak = used

    def settled(self, cost: int) -> None:
        """Note that a reservation or grant of this worker took COST more tokens, or with less than 0 returned some."""
        self.charged += cost
        if cost < 0:
            self.peak = max(self.peak + cost * MICRO, min(self.peak, self.used))

    def seen(self, now: float) -> SeenQuota | None:
        """The most that was seen used in the window that is still open; None if it is over, or no quota of an hour."""
        if not self.terms.long:
            return None
        self.note(self.at)
        return SeenQuota(self.bucket, self.peak, self.ends) if self.peak > 0 and now < self.ends else None

    def share(self, servers: int, now: float) -> float:
        """The part of everybody's charges that were this worker's, above 0 and at most 1.

        What nobody used is divided evenly among SERVERS, and so are a few tokens: who has seen little knows little.
        """
        own, total, unused = self.own, self.total, self.unused
        if now - self.at > 2 * GENERATION_SECONDS:
            own, total, unused = _NOTHING
        elif now - self.since <= GENERATION_SECONDS:
            own, total, unused = own + self.before[0], total + self.before[1], unused + self.before[2]
        charged = max(own, 0) * MICRO
        even = PRIOR_TOKENS * MICRO + max(unused - max(charged - total, 0), 0)
        return min((charged + even / servers) / (max(total, charged) + even), 1.0)

    def _start(self, now: float, before: tuple[int, float, float]) -> None:
        self.before = before
        self.own, self.total, self.unused, self.since = 0, 0.0, 0.0, now


class LevelMemory:
    """The levels that one worker has seen, by the names of buckets.

    SIZE bounds them, and CHOSEN those of values that callers choose. `now()` is the monotonic time in seconds by which
    results are observed.
    """

    def __init__(
        self, now: Callable[[], float] = monotonic, size: int = MAX_LEVELS, chosen: int = MAX_CHOSEN_LEVELS
    ) -> None:
        self.now = now
        self._size, self._chosen_size = size, chosen
        self._levels: OrderedDict[str, Level] = OrderedDict()
        self._chosen: OrderedDict[str, Level] = OrderedDict()
        self._denied: OrderedDict[str, Level] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels) + len(self._chosen)

    def observe(  # noqa: C901, PLR0912  no calls on the hot path
        self, charges: Sequence[Charge], results: Sequence[ChargeResult], now: float
    ) -> None:
        """Note the results of a batch at NOW, a monotonic time in seconds. On the hot path."""
        for charge, charge_result in zip(charges, results):  # noqa: B905  an argument by name costs a call here
            buckets = charge[0]
            if len(buckets) == 1:  # the common case, without a loop
                bucket = buckets[0]
                level: Level = bucket.level or self._remember(bucket, now)
                if level.bucket is not bucket:
                    level.show(bucket)
                level.result = charge_result[1][0]
                level.at = now
                if charge[5] is not None and not isinstance(charge[5], Reserve):
                    if charge_result[4][0]:
                        level.settled(_change(charge, charge_result, 0))
                    elif isinstance(charge[5], Grant) and not (charge_result[0] or level.noted):
                        self._note_denied(level, now)
                elif charge_result[0] or charge[4]:
                    level.charged += charge[1][0]
                elif not level.noted:
                    self._note_denied(level, now)
                if now >= level.due:
                    level.measure(now)
                continue
            for bucket, cost, result in zip(buckets, charge[1], charge_result[1], strict=True):
                level = bucket.level or self._remember(bucket, now)
                if level.bucket is not bucket:
                    level.show(bucket)
                level.result, level.at = result, now
                if charge[5] is not None and not isinstance(charge[5], Reserve):
                    if charge_result[4][0]:
                        level.settled(_change(charge, charge_result, buckets.index(bucket)))
                    elif isinstance(charge[5], Grant) and not (charge_result[0] or level.noted):
                        self._note_denied(level, now)
                elif charge_result[0] or charge[4]:
                    level.charged += cost
                elif not level.noted:
                    self._note_denied(level, now)
                if now >= level.due:
                    level.measure(now)

    def find(self, bucket: Bucket) -> Level | None:
        """What was seen of a bucket, or None."""
        return bucket.level or (self._chosen if bucket.family else self._levels).get(bucket.name)

    def denied_quotas(self) -> list[SeenQuota]:
        """The quotas of an hour and longer that denied a call lately, at most MAX_DENIED."""
        return list(self._seen(self._denied.values()))

    def quotas(self) -> Iterator[SeenQuota]:
        """All quotas of an hour and longer that were seen in their open windows.

        Those of values that callers choose come after the others, and of each those seen first last.
        """
        return self._seen([*reversed(self._levels.values()), *reversed(self._chosen.values())])

    def _seen(self, levels: Iterable[Level]) -> Iterator[SeenQuota]:
        now = self.now()
        return (seen for level in levels if (seen := level.seen(now)) is not None)

    def _note_denied(self, level: Level, now: float) -> None:
        level.note(now)
        self._denied[level.bucket.name] = level
        self._denied.move_to_end(level.bucket.name)
        if len(self._denied) > MAX_DENIED:
            self._denied.popitem(last=False)

    def _remember(self, bucket: Bucket, now: float) -> Level:
        """The level of a bucket that is new here, perhaps known by another object of the same name."""
        if isinstance(bucket.limit.algorithm, Concurrency):  # LOCAL has slots of its own: nothing is to be recalled
            return Level(bucket, now)
        levels, size = (self._chosen, self._chosen_size) if bucket.family else (self._levels, self._size)
        level = levels.get(bucket.name)
        if level is None:
            level = levels[bucket.name] = Level(bucket, now)
            if len(levels) > size:
                _, forgotten = levels.popitem(last=False)
                forgotten.bucket.level = None  # else each holds the other, and old garbage is never collected
        bucket.level = level
        return level


def _change(charge: Charge, result: ChargeResult, position: int) -> int:
    """The tokens that a settlement, a grant or its return took from a bucket, below 0 if it returned some."""
    hold = result.hold
    if isinstance(hold, Granted):
        return charge.costs[position] * hold.taken
    if isinstance(hold, Returned):
        return -hold.units * hold.tokens[position]
    return charge.costs[position]


@lru_cache(_MAX_TERMS)
def _terms_of(limit: Limit) -> _Terms:
    algorithm = limit.algorithm
    full, rate = limit.capacity * MICRO, 0.0
    if isinstance(algorithm, TokenBucket):
        rate = algorithm.refill_tokens * MICRO * MICRO / algorithm.refill_period_us
    drains = full / rate / 4 if rate else MAX_STEP_SECONDS
    long = isinstance(algorithm, Quota) and algorithm.window in LONG_WINDOWS
    return _Terms(full, rate, min(max(drains, MIN_STEP_SECONDS), MAX_STEP_SECONDS), long)
