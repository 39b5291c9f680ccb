"""How many calls one bucket denies, from counts alone: a lower and an upper bound over all timings within the bins.

A bin (a minute or an hour) has the number of calls and not their times. Let f(t) be the most that a limit admits in an
interval of length t: capacity + rate * t for a token bucket. In any interval I, at least A(I) - f(|I|) of the A(I)
arrivals are denied; and in a busy period, from an untouched bucket to the last call that this bucket denies, not more
than that are, because the bucket was full then. So the denials are the largest sum of A(I) - f(|I|) over disjoint
intervals. Of these sums

- the smallest over all timings has intervals of whole bins: calls spread evenly,
- the largest has intervals that touch their first bin at its last instant and their last bin at its first: a burst
  at the end of one bin and another at the start of the next, with no time to drain between them.

Both are found by one pass over the bins. For a calendar quota of at least a bin the times do not matter, and the bounds
are equal. Amounts are whole numbers, so nothing is rounded but to whole calls.

When other limits apply as well, a call that another one denies takes nothing from this bucket. Then `worst` still
bounds the calls that this bucket denies, and `best` the calls of this bucket that any limit denies.
"""

from typing import Protocol

from ratelimit_service.decision.limit import MAX_TOKENS, MICRO, Concurrency, Limit, TokenBucket, Window
from ratelimit_service.decision.window import LENGTHS, span


class Bounds(Protocol):
    """Bounds of one bucket under one limit. Bins are added in the order of time, each at most once."""

    @property
    def best(self) -> int:
        """The lower bound so far, in micro-tokens that were demanded and not admitted."""
        ...

    @property
    def worst(self) -> int:
        """The upper bound so far, in micro-tokens that were demanded and not admitted."""
        ...

    def add(self, number: int, demand: int, grain: int) -> bool:
        """Add DEMAND micro-tokens in the bin with this number, which is its start divided by its length.

        GRAIN: what each call costs, if all calls of the bucket so far cost the same; otherwise 1. Returns whether a
        bound has changed.
        """
        ...

    def used(self, number: int) -> tuple[int, int]:
        """The least and the most micro-tokens in use at the start of the bin with this number, a later one."""
        ...


def bounds_of(limit: Limit, bin_us: int, number: int, used: tuple[int, int] = (0, 0)) -> Bounds:
    """Return the bounds of a bucket of which between USED[0] and USED[1] micro-tokens are in use at the start of a bin.

    `bin_us` is the length of all bins in microseconds: a minute or an hour.
    """
    capacity = limit.capacity * MICRO
    if isinstance(limit.algorithm, TokenBucket):
        return _TokenBucketBounds(capacity, limit.algorithm.rate, bin_us, number, used)
    if isinstance(limit.algorithm, Concurrency):  # counts do not say how many calls there were at once
        return _ShortQuotaBounds(MAX_TOKENS * MICRO, 1)
    length = LENGTHS.get(limit.algorithm.window, bin_us)
    if length < bin_us:
        return _ShortQuotaBounds(capacity, bin_us // length)
    return _QuotaBounds(capacity, limit.algorithm.window, bin_us, number, used)


def _up(amount: int, unit: int) -> int:
    return -(-amount // unit) * unit


class _TokenBucketBounds:
    """Counts in micro-tokens times the denominator of the rate.

    `_best` and `_worst` are the largest sums of intervals that have ended. `_whole` and `_touching` are those with a
    last interval that goes on: up to the end of the last bin.
    """

    __slots__ = ("_best", "_capacity", "_drain", "_most_used", "_number", "_scale", "_touching", "_whole", "_worst")

    def __init__(self, capacity: int, rate: tuple[int, int], bin_us: int, number: int, used: tuple[int, int]) -> None:
        numerator, self._scale = rate
        self._capacity = capacity * self._scale
        self._drain = bin_us * numerator
        self._number = number - 1
        self._best = self._worst = 0
        self._whole = used[0] * self._scale
        self._touching = self._most_used = used[1] * self._scale

    @property
    def best(self) -> int:
        return self._best // self._scale

    @property
    def worst(self) -> int:
        return self._worst // self._scale

    def add(self, number: int, demand: int, grain: int) -> bool:
        capacity, drain, best, worst = self._capacity, self._drain, self._best, self._worst
        amount, unit = demand * self._scale, grain * self._scale
        idle = (number - self._number - 1) * drain
        self._number = number
        drained = max(self._most_used - idle - drain, 0)
        self._most_used = min(drained + amount, max(capacity, drained))
        self._whole = whole = max(self._whole - idle, best) + amount - drain
        if whole - capacity > best:
            self._best = best + _up(whole - capacity - best, unit)
        touching = max(self._touching - idle, worst)
        self._touching = max(touching - drain, worst) + amount
        denied = touching + amount - capacity - worst
        if denied > 0:
            self._worst = worst + min(_up(denied, unit), amount)
        return denied > 0 or self._best > best

    def used(self, number: int) -> tuple[int, int]:
        idle = (number - self._number - 1) * self._drain
        return 0, max(self._most_used - idle, 0) // self._scale


class _QuotaBounds:
    """A quota whose window is one or more whole bins."""

    __slots__ = (
        "_asked",
        "_best",
        "_bin_us",
        "_capacity",
        "_end",
        "_used",
        "_window",
        "_window_best",
        "_window_worst",
        "_worst",
    )

    def __init__(self, capacity: int, window: Window, bin_us: int, number: int, used: tuple[int, int]) -> None:
        self._capacity = capacity
        self._window = window
        self._bin_us = bin_us
        self._end = span(window, number * bin_us)[1]
        self._used = used
        self._asked = self._window_best = self._window_worst = 0
        self._best = self._worst = 0

    @property
    def best(self) -> int:
        return self._best + self._window_best

    @property
    def worst(self) -> int:
        return self._worst + self._window_worst

    def add(self, number: int, demand: int, grain: int) -> bool:
        if number * self._bin_us >= self._end:
            self._end = span(self._window, number * self._bin_us)[1]
            self._used = (0, 0)
            self._best, self._worst = self.best, self.worst
            self._asked = self._window_best = self._window_worst = 0
        self._asked = asked = self._asked + demand
        least, most = self._used
        self._window_worst = min(_up(max(asked + most - self._capacity, 0), grain), asked)
        self._window_best = min(_up(max(asked + least - self._capacity, 0), grain), asked)
        return self._window_worst > 0

    def used(self, number: int) -> tuple[int, int]:
        if number * self._bin_us >= self._end:
            return 0, 0
        least, most = self._used
        return least + self._asked - self._window_worst, most + self._asked - self._window_best


class _ShortQuotaBounds:
    """A quota with WINDOWS windows in a bin. At best a bin's calls fill them all, at worst all calls are in one."""

    __slots__ = ("_capacity", "_windows", "best", "worst")

    def __init__(self, capacity: int, windows: int) -> None:
        self._capacity = capacity
        self._windows = windows
        self.best = self.worst = 0

    def add(self, number: int, demand: int, grain: int) -> bool:
        del number
        admitted = self._capacity // grain * grain
        self.best += max(demand - self._windows * admitted, 0)
        self.worst += max(demand - admitted, 0)
        return demand > admitted

    def used(self, number: int) -> tuple[int, int]:
        del number
        return 0, 0
