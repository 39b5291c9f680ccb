"""What a worker saw of the levels of buckets in the store's results: where LOCAL starts from when the store is away.

A result has what remains of a bucket, and so what everybody has used of it. What the level rose between two results,
with what drained in between added, is what everybody charged; what of it this worker charged itself is its share.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from ratelimit_service.decision.charge import Bucket, Charge, ChargeResult, LimitResult
from ratelimit_service.decision.limit import MICRO, TokenBucket

MAX_LEVELS: Final = 100_000
"""Buckets whose levels are kept, some 350 bytes each. Those first seen longest ago are forgotten first."""

MIN_STEP_SECONDS: Final = 0.25
MAX_STEP_SECONDS: Final = 5.0
"""Between two measurements of what everybody charged: within these, a quarter of the time in which the bucket drains.
What others charge, and what drains of it before the next one, is not noticed; of a quota nothing drains."""

GENERATION_SECONDS: Final = 30.0
"""A share is that of the last one to two generations."""

PRIOR_TOKENS: Final = 10
"""Everybody's charges that are assumed to be spread evenly over the servers, beside those that were seen."""

_NONE: Final = LimitResult(0, 0, 0)
_NOTHING: Final = (0, 0.0, 0.0)


class Level:
    """The level of one bucket, as this worker last saw it, and who charged it.

    `result` is the last result, for `bucket`, at the monotonic time `at`. Since the generation began at `since`: `own`
    tokens were charged by this worker; `total` micro-tokens by everybody, at least; `unused` micro-tokens would have
    drained if the bucket had been charged more. All of it is as of the last measurement, after which this worker has
    `charged` more tokens. `before` is the same of the generation before. The next measurement is `due`, `step` seconds
    after the last.
    """

    __slots__ = (
        "at",
        "before",
        "bucket",
        "charged",
        "due",
        "full",
        "mark",
        "marked_at",
        "own",
        "rate",
        "result",
        "since",
        "step",
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

    def show(self, bucket: Bucket) -> None:
        """The results are of this one from now on."""
        self.bucket = bucket
        self.full = bucket.limit.capacity * MICRO
        self.rate = _rate(bucket)
        drains = self.full / self.rate / 4 if self.rate else MAX_STEP_SECONDS
        self.step = min(max(drains, MIN_STEP_SECONDS), MAX_STEP_SECONDS)

    @property
    def used(self) -> int:
        """Micro-tokens that were used at `at`."""
        return self.full - self.result[0]

    def measure(self, now: float) -> None:
        """Add what everybody charged since the last measurement."""
        mark, elapsed = self.mark, now - self.marked_at
        self.mark = used = self.full - self.result[0]
        self.marked_at, self.due = now, now + self.step
        self.own, self.charged = self.own + self.charged, 0
        if elapsed > GENERATION_SECONDS:  # nothing is known of what happened meanwhile
            self._start(now, _NOTHING)
            return
        if self.rate:
            left = mark - elapsed * self.rate
            if left > 0:
                if used > left:
                    self.total += used - left
            else:
                self.total += used
                self.unused -= left
        else:
            self.total += used - mark if used >= mark else used  # else another window has begun
        if now - self.since > GENERATION_SECONDS:
            self._start(now, (self.own, self.total, self.unused))

    def share(self, servers: int, now: float) -> float:
        """The part of everybody's charges that were this worker's, above 0 and at most 1.

        What nobody used is divided evenly among SERVERS, and so are a few tokens: who has seen little knows little.
        """
        own, total, unused = self.own, self.total, self.unused
        if now - self.at > 2 * GENERATION_SECONDS:
            own, total, unused = _NOTHING
        elif now - self.since <= GENERATION_SECONDS:
            own, total, unused = own + self.before[0], total + self.before[1], unused + self.before[2]
        charged = own * MICRO
        even = PRIOR_TOKENS * MICRO + max(unused - max(charged - total, 0), 0)
        return min((charged + even / servers) / (max(total, charged) + even), 1.0)

    def _start(self, now: float, before: tuple[int, float, float]) -> None:
        self.before = before
        self.own, self.total, self.unused, self.since = 0, 0.0, 0.0, now


class LevelMemory:
    """The levels that one worker has seen, by the names of buckets. `size` bounds them.

    `now()` is the monotonic time in seconds by which results are observed.
    """

    def __init__(self, now: Callable[[], float] = monotonic, size: int = MAX_LEVELS) -> None:
        self.now = now
        self._size = size
        self._levels: OrderedDict[str, Level] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def observe(self, charges: Sequence[Charge], results: Sequence[ChargeResult], now: float) -> None:
        """Note the results of a batch at NOW, a monotonic time in seconds. On the hot path."""
        for charge, charge_result in zip(charges, results):  # noqa: B905  an argument by name costs a call here
            buckets = charge[0]
            if len(buckets) == 1:  # the common case, without a loop
                bucket = buckets[0]
                level: Level = bucket.level or self._remember(bucket, now)
                if charge_result[0]:
                    level.charged += charge[1][0]
                if level.bucket is not bucket:
                    level.show(bucket)
                level.result = charge_result[1][0]
                level.at = now
                if now >= level.due:
                    level.measure(now)
                continue
            for bucket, cost, result in zip(buckets, charge[1], charge_result[1], strict=True):
                level = bucket.level or self._remember(bucket, now)
                level.charged += cost if charge_result[0] else 0
                if level.bucket is not bucket:
                    level.show(bucket)
                level.result, level.at = result, now
                if now >= level.due:
                    level.measure(now)

    def find(self, bucket: Bucket) -> Level | None:
        """What was seen of a bucket, or None."""
        return bucket.level or self._levels.get(bucket.name)

    def _remember(self, bucket: Bucket, now: float) -> Level:
        """The level of a bucket that is new here, perhaps known by another object of the same name."""
        level = self._levels.get(bucket.name)
        if level is None:
            level = self._levels[bucket.name] = Level(bucket, now)
            if len(self._levels) > self._size:
                self._levels.popitem(last=False)
        bucket.level = level
        return level


def _rate(bucket: Bucket) -> float:
    """Micro-tokens that drain in a second; 0 of a quota."""
    algorithm = bucket.limit.algorithm
    return (
        algorithm.refill_tokens * MICRO * MICRO / algorithm.refill_period_us
        if isinstance(algorithm, TokenBucket)
        else 0.0
    )
