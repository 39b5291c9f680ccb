"""What may be assigned of the limits of a bucket: to all alike, or to each a share of a rate."""

from collections.abc import Sequence
from enum import Enum
from typing import Final, NamedTuple

from ratelimit_service.decision.charge import Bucket, LimitResult
from ratelimit_service.decision.descriptors.rules import Blocked
from ratelimit_service.decision.descriptors.tree import LimitSet
from ratelimit_service.decision.limit import MICRO, Concurrency, Limit, Quota, TokenBucket, Window

UNITS: Final = 1_000
"""In an interval there are so many tokens at least, if it can be that long: a share has whole ones."""

INTERVALS: Final = (1, 10, 60, 600, 3_600, 86_400, 31 * 86_400)
"""The lengths of intervals, in seconds."""

MAX_UINT32: Final = 2**32 - 1
"""The most tokens of a share, at once or in an interval: Envoy's fields hold no more."""

_HORIZON: Final = 15.0
"""Seconds in which what a quota has left may be spent at the soonest: three times what reports take to come."""

_AT_ONCE: Final = 4
"""Of what a quota has left, one in so many may be spent at once."""

_SECONDS_BURST: Final = 20
"""The same of a quota of a second, which is shared as a rate."""


class Strategy(Enum):
    """What is assigned."""

    ALLOW_ALL = "allow_all"
    DENY_ALL = "deny_all"
    TOKEN_BUCKET = "token_bucket"  # noqa: S105  no secret


class Totals(NamedTuple):
    """What all holders together may spend: UNITS an interval, and at once BURST, of which each gets LEAST at least."""

    units: int
    burst: int
    least: int


class Terms:
    """What may be assigned of a set of limits.

    `strategy` is what all are assigned alike, or TOKEN_BUCKET: then each has a share of the `totals`. `interval` is the
    time in seconds in which units are spent. `has_level`: whether totals depend on what limits have left.
    `unsupported`: what is denied since it has an overdraft: its calls are charged what only their ends show.
    """

    __slots__ = ("_enforced", "_fixed", "_rate", "has_level", "interval", "limit_set", "strategy", "unsupported")

    def __init__(self, limit_set: LimitSet) -> None:
        self.limit_set = limit_set
        enforced = [(limit, index) for index, limit in enumerate(limit_set.limits) if limit.enforced]
        blocked = any(isinstance(limit.algorithm, Blocked) for limit, _ in enforced)
        self._enforced = [(limit.bucket.limit, index) for limit, index in enforced if limit.bucket is not None]
        self.unsupported = any(not _is_supported(limit) for limit, _ in self._enforced)
        if blocked or self.unsupported:
            self.strategy = Strategy.DENY_ALL
        elif self._enforced:
            self.strategy = Strategy.TOKEN_BUCKET
        else:
            self.strategy = Strategy.ALLOW_ALL
        self.has_level = self.strategy is Strategy.TOKEN_BUCKET and any(_has_level(each) for each, _ in self._enforced)
        rates = [_rate(limit, limit.capacity) for limit, _ in self._enforced]
        self._rate = min(rates, default=0.0)
        self.interval = next((each for each in INTERVALS if self._rate * each >= UNITS), INTERVALS[-1])
        self._fixed = self._totals(()) if self.strategy is Strategy.TOKEN_BUCKET and not self.has_level else None

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """Those that are charged."""
        return self.limit_set.buckets

    def is_as(self, other: "Terms") -> bool:
        """Whether both assign the same."""
        return (
            self.strategy is other.strategy
            and self.limit_set.on_store_failure is other.limit_set.on_store_failure
            and [(each.name, each.limit) for each in self.buckets]
            == [(each.name, each.limit) for each in other.buckets]
        )

    def totals(self, seen: Sequence[LimitResult | None]) -> Totals:
        """What may be spent now. SEEN is what each of `buckets` had left lately, None where nobody has looked."""
        return self._fixed or self._totals(seen)

    def _totals(self, seen: Sequence[LimitResult | None]) -> Totals:
        rate, burst, least = self._rate, MAX_UINT32, 1
        for limit, index in self._enforced:
            if not _has_level(limit):
                burst = min(burst, _burst(limit))
                continue
            result = seen[index]
            left = limit.capacity if result is None else max(result.remaining, 0) // MICRO
            rate = min(rate, _rate(limit, left))
            burst, least = min(burst, -(-left // _AT_ONCE)), 0
        return Totals(min(int(rate * self.interval), MAX_UINT32), burst, least)


def _is_supported(limit: Limit) -> bool:
    return limit.overdraft is None and not isinstance(limit.algorithm, Concurrency)


def _has_level(limit: Limit) -> bool:
    """Whether what may be spent of it depends on what it has left."""
    return isinstance(limit.algorithm, Quota) and limit.algorithm.window is not Window.SECOND


def _rate(limit: Limit, left: int) -> float:
    """Tokens a second that may be spent of a limit that has so many LEFT."""
    algorithm = limit.algorithm
    if isinstance(algorithm, TokenBucket):
        numerator, denominator = algorithm.rate
        return numerator / denominator
    if _has_level(limit):
        return (left - left / _AT_ONCE) / _HORIZON
    return float(limit.capacity)


def _burst(limit: Limit) -> int:
    if isinstance(limit.algorithm, TokenBucket):
        return min(limit.capacity, MAX_UINT32)
    return min(max(limit.capacity // _SECONDS_BURST, 1), MAX_UINT32)
