"""What was spent of a limit by those who apply it by themselves, and is yet to be charged."""

from typing import Final

from ratelimit_service.decision.charge import Bucket, ChargeResult, LimitResult
from ratelimit_service.decision.limit import Mode, Quota, TokenBucket, Window

SPREAD: Final = 5.0
"""Seconds over which what one report says is charged: as many as it was spent in, so that others see it evenly."""

_EVERY: Final = 0.25, 5.0
"""Seconds between two charges of one bucket: least and most."""

_STEPS: Final = 4
"""A bucket is charged so often in the time in which it fills."""

_FAST: Final = 0.5
"""Seconds in which a bucket fills that cannot be charged often enough: what it has no room for is forgotten."""

_KEPT: Final = 60.0
"""Seconds of a rate that are owed at most. What is more is forgotten."""


class Debt:
    """What is owed to one bucket.

    `seen` is what the bucket had at `seen_at`, in monotonic seconds, when it was charged or looked at. `forgotten`:
    tokens that will never be charged.
    """

    __slots__ = (
        *("_at", "_due", "_every", "_late", "_paid", "_pace", "_pause"),
        *("bucket", "forgotten", "owed", "seen", "seen_at"),
    )

    def __init__(self, bucket: Bucket, now: float) -> None:
        self.bucket = bucket
        self.owed = 0
        self.forgotten = 0
        self.seen: LimitResult | None = None
        self.seen_at = 0.0
        self._every = _every(bucket)
        self._pause = 0.0
        self._pace = 0.0
        self._at = now
        self._late = self._due = self._paid = 0

    def spend(self, tokens: int, now: float) -> None:
        """Owe so many TOKENS more."""
        if not self.owed:
            self._at = now
        self.owed += tokens
        self._pace = self.owed / SPREAD

    def due(self, now: float) -> int:
        """The tokens to charge at NOW, in monotonic seconds."""
        taken = now - self._at
        if not self._every:
            return self.owed if taken >= self._pause else 0
        return min(int(self._pace * taken), self.owed) if taken >= self._every else 0

    def pay(self, tokens: int, result: ChargeResult, now: float) -> int:
        """Note that so many TOKENS, perhaps 0, were charged with this RESULT.

        Returns in thousandths how much of what was due the bucket had room for, if others take so much of it that less
        has to be spent: else 1,000.
        """
        missed = min(result.clamped, tokens)
        self.seen, self.seen_at = result.limit_results[0], now
        if not tokens:
            return 1_000
        self._at = now
        self._pause = SPREAD if missed else 0.0
        self.owed -= tokens - missed
        if missed and _fills_in(self.bucket) < _FAST:
            self._forget(missed)
            return 1_000
        most = int(self.bucket.limit.capacity + _rate(self.bucket) * _KEPT)
        if self.owed > most:
            self._forget(self.owed - most)
        if not missed or self.bucket.limit.mode is Mode.SHADOW:
            self._late = self._due = self._paid = 0
            return 1_000
        self._late += missed
        self._due += tokens
        self._paid += tokens - missed
        if self._late <= self.bucket.limit.capacity or not self._every:
            return 1_000
        keep = 1_000 * self._paid // self._due
        self._late = self._due = self._paid = 0
        return keep

    def _forget(self, tokens: int) -> None:
        self.owed -= tokens
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
