"""What a worker counts while it runs: plain integers, because every call pays for each of them."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ratelimit_service.errors import Code
from ratelimit_service.metrics.reservations import ReservationCounts

SECONDS_BOUNDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Bounds of the histograms of store round trips and of the queue before them, in seconds."""

CALL_BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Bounds of the histogram of calls, in seconds: decisions take less than a tenth, administration up to some."""

TURN_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1)
"""Bounds of the histogram of waits for a turn, in seconds: none is longer than a tenth by much."""

SIZE_BOUNDS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
"""Bounds of the histogram of charges per round trip."""


class Distribution:
    """A histogram in plain integers: the number of values in each bucket, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class CallCounts:
    """How many calls there were and how long they took, by full method name and code."""

    def __init__(self) -> None:
        self.by_method: dict[tuple[str, Code], Distribution] = {}

    def count(self, method: str, code: Code, seconds: float, times: int = 1) -> None:
        """Count a call that took so many SECONDS, with the wait for its turn, or TIMES such calls."""
        taken = self.by_method.get((method, code))
        if taken is None:
            taken = self.by_method[method, code] = Distribution(CALL_BOUNDS)
        taken.counts[bisect_left(CALL_BOUNDS, seconds)] += times  # as `add`, whose call would cost as much again
        taken.total += seconds * times


class RoundTripCounts:
    """The round trips to the bucket store. An observer of the store."""

    def __init__(self, report: Callable[[float], None] = lambda _seconds: None) -> None:
        """REPORT gets the seconds of each round trip too."""
        self._report = report
        self.seconds = Distribution(SECONDS_BOUNDS)
        self.queued = Distribution(SECONDS_BOUNDS)
        """How long the first call of each had waited until it was sent."""
        self.sizes = Distribution(SIZE_BOUNDS)
        self.failures = 0
        self.refused_buckets = 0
        """New buckets that found no room."""
        self.abandoned = 0
        """Reservations that were ended because their callers got no result."""
        self.memory_share = 0.0
        """Of the memory of the fullest server, when it was last asked."""
        self.eviction = ""
        """The policy by which a server evicts keys, empty if none does."""
        self.losses = dict.fromkeys(("emptied", "other_server"), 0)
        """How often a server was found that has lost data, or may have, by cause."""
        self.raises = dict.fromkeys(("raised", "current", "ended", "failed"), 0)
        """Quotas that were to be raised again after that, by what became of them."""

    def answered(self, charges: int, seconds: float, queued: float) -> None:
        """Count a round trip with so many charges that took so many seconds, QUEUED seconds after the first call."""
        self.sizes.add(charges)
        self.seconds.add(seconds)
        self.queued.add(queued)
        self._report(seconds)

    def took(self, seconds: float) -> None:
        """Count how long a probe took, or a round trip that was given up."""
        self.seconds.add(seconds)

    def awaited(self, seconds: float) -> None:
        """Report a round trip that takes longer than a call could wait."""
        self._report(seconds)

    def failed(self) -> None:
        """Count a round trip that was not answered."""
        self.failures += 1

    def refused(self, buckets: int) -> None:
        """Count new buckets that found no room."""
        self.refused_buckets += buckets

    def ended(self, reservations: int) -> None:
        """Count reservations that were ended because their callers got no result."""
        self.abandoned += reservations

    def memory(self, share: float, eviction: str) -> None:
        """Note how full the fullest server is, and the policy by which one evicts."""
        self.memory_share = share
        self.eviction = eviction

    def lost_data(self, cause: str) -> None:
        """Count a server that has lost data."""
        self.losses[cause] += 1

    def raised(self, results: Mapping[str, int]) -> None:
        """Count quotas that were to be raised again."""
        for result, quotas in results.items():
            self.raises[result] += quotas


class Counts:
    """Everything that a worker counts, apart from what the engines and caches count themselves."""

    def __init__(self, report_round_trip: Callable[[float], None] = lambda _seconds: None) -> None:
        """REPORT_ROUND_TRIP gets the seconds of each round trip too."""
        self.calls = CallCounts()
        self.turns = Distribution(TURN_BOUNDS)
        """How long calls waited for their turn, of those that had to."""
        self.round_trips = RoundTripCounts(report_round_trip)
        self.reservations = ReservationCounts()
