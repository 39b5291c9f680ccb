"""What was spent of a limit by those who apply it by themselves, and is yet to be charged."""

from typing import Final

from ratelimit_service.decision.charge import Bucket, ChargeResult, LimitResult
from ratelimit_service.decision.limit import MAX_TOKENS, Mode, Quota, TokenBucket, Window

SPREAD: Final = 5.0
"""Seconds over which what one report says is charged: as many as it was spent in, so that others see it evenly."""

_EVERY: Final = 0.25, 1.0
"""Seconds between two charges of one bucket: least and most."""

_STEPS: Final = 4
"""A bucket is charged so often in the time in which it fills."""

_FAST: Final = 0.5
"""Seconds in which a bucket fills that cannot be charged often enough: what it has no room for is forgotten."""

_LATE: Final = 3.0
"""Seconds of a rate that may be late before less is assigned: as many as charges differ from what was spent in time."""

_KEPT: Final = 60.0
"""Seconds of a rate that may be late at most. What is more is forgotten."""

_PERIOD: Final = 1.0
"""Seconds of charges by which it is decided how much less is to be assigned."""

ALL: Final = 1_000
"""In place of thousandths: there is no need to assign less."""


class Debt:
    """What is owed to one bucket, in tokens: what is charged in the next seconds, and beside it what is late.

    `seen` is what the bucket had at `seen_at`, in monotonic seconds, when it was charged or peeked at. `forgotten`:
    tokens that will never be charged.
    """

    __slots__ = (
        *("_at", "_due", "_every", "_evaluated", "_late", "_paid", "_pace", "_planned", "_rate"),
        *("bucket", "forgotten", "seen", "seen_at"),
    )

    def __init__(self, bucket: Bucket, now: float) -> None:
        self.bucket = bucket
        self.forgotten = 0
        self.seen: LimitResult | None = None
        self.seen_at = 0.0
        self._rate = _rate(bucket)
        self._every = _every(bucket)
        self._pace = 0.0
        self._planned = self._late = 0
        self._at = self._evaluated = now
        self._due = self._paid = 0

    @property
    def owed(self) -> int:
        """All that is to be charged."""
        return self._planned + self._late

    def spend(self, tokens: int, now: float) -> None:
        """Owe so many TOKENS more. What makes it more than MAX_TOKENS is forgotten."""
        if not self.owed:
            self._at = now
        self._planned += tokens
        most = MAX_TOKENS - self._late
        if self._planned > most:
            self.forgotten += self._planned - most
            self._planned = most
        self._pace = self._planned / SPREAD

    def due(self, now: float) -> int:
        """The tokens to charge at NOW, in monotonic seconds."""
        taken = now - self._at
        if not self._every:  # a quota, of which nothing drains before its window ends
            return self._planned + (self._late if taken >= SPREAD else 0)
        return self._planned_by(taken) + self._late if taken >= self._every else 0

    def pay(self, tokens: int, result: ChargeResult, now: float) -> int:
        """Note that so many TOKENS, perhaps 0, were charged with this RESULT.

        Returns in thousandths how much of what was to be charged the bucket had room for, if others take so much of it
        that less has to be assigned: else ALL.
        """
        missed = min(result.clamped, tokens)
        self.seen, self.seen_at = result.limit_results[0], now
        if not tokens:
            return ALL
        planned = min(self._planned_by(now - self._at) if self._every else self._planned, tokens)
        late = min(tokens - planned, self._late)
        planned = tokens - late
        self._at = now
        self._planned -= planned
        self._late += missed - late
        if missed and _fills_in(self.bucket) < _FAST:
            self._forget(self._late)
        self._forget(max(self._late - int(self.bucket.limit.capacity + self._rate * _KEPT), 0))
        self._due += planned
        self._paid += tokens - missed
        return self._evaluate(now)

    def lose(self, tokens: int, now: float) -> None:
        """Note that so many TOKENS could not be charged, since the store is away. What drains there is forgotten."""
        if self._every:
            late = min(tokens, self._late)
            self._late -= late
            self._planned -= tokens - late
            self.forgotten += tokens
        self._at = now

    def _evaluate(self, now: float) -> int:
        keep = ALL
        if now - self._evaluated >= _PERIOD:
            if self._every and self.bucket.limit.mode is Mode.ENFORCE and self._late > self._rate * _LATE:
                keep = min(ALL * self._paid // max(self._due, 1), ALL)
            self._evaluated, self._due, self._paid = now, 0, 0
        return keep

    def _planned_by(self, seconds: float) -> int:
        return min(int(self._pace * seconds), self._planned)

    def _forget(self, tokens: int) -> None:
        self._late -= tokens
        self.forgotten += tokens


def _every(bucket: Bucket) -> float:
    """Seconds between two charges; 0: at once, as to a quota of a minute and longer, of which nothing drains."""
    algorithm = bucket.limit.algorithm
    if isinstance(algorithm, Quota) and algorithm.window is not Window.SECOND:
        return 0.0
    least, most = _EVERY
    return min(max(_fills_in(bucket) / _STEPS, least), most)


def _fills_in(bucket: Bucket) -> float:
    algorithm = bucket.limit.algorithm
    return bucket.limit.capacity / _rate(bucket) if isinstance(algorithm, TokenBucket) else 1.0


def _rate(bucket: Bucket) -> float:
    algorithm = bucket.limit.algorithm
    if isinstance(algorithm, TokenBucket):
        numerator, denominator = algorithm.rate
        return numerator / denominator
    return float(bucket.limit.capacity)
