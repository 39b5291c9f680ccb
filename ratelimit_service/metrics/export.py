"""Making the metrics that the catalogue describes, and copying what is counted in plain numbers to them."""

from collections.abc import Callable, Sequence
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ratelimit_service.metrics.catalogue import Described
from ratelimit_service.metrics.counts import Distribution

EXPORT_SECONDS: Final = 1.0
"""Between two exports."""

_ModeName = Literal["livemax", "livemin", "livesum"]
_MODES: Final[dict[str, _ModeName]] = {"max": "livemax", "min": "livemin", "sum": "livesum"}


def counter(described: Described, registry: CollectorRegistry) -> Counter:
    """The counter, with all values of its label at 0 where it has one label of which all are known."""
    made = Counter(described.name, described.meaning, tuple(described.labels), registry=registry)
    for value in _known_values(described):
        made.labels(value)
    return made


def gauge(described: Described, registry: CollectorRegistry) -> Gauge:
    """The gauge, of processes that live: what one shows ends with it."""
    return Gauge(
        described.name,
        described.meaning,
        tuple(described.labels),
        registry=registry,
        multiprocess_mode=_MODES[described.across],
    )


class ManyHistogram(Histogram):
    """A histogram to which many values can be added at once."""

    def add(self, counts: Sequence[int], total: float) -> None:
        """Add so many values to each bucket; TOTAL is their sum."""
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
        self._sum.inc(total)


def histogram(described: Described, registry: CollectorRegistry) -> ManyHistogram:
    """The histogram."""
    names = tuple(described.labels)
    return ManyHistogram(described.name, described.meaning, names, registry=registry, buckets=described.bounds)


class CounterExport:
    """Copies a number that only increases to a counter."""

    def __init__(self, read: Callable[[], float], counter: Counter) -> None:
        self._read = read
        self._counter = counter
        self._exported = 0.0

    def export(self) -> None:
        """Bring the counter up to date."""
        now = self._read()
        if now != self._exported:
            self._counter.inc(now - self._exported)
            self._exported = now


class DistributionExport:
    """Copies a distribution to a histogram."""

    def __init__(self, distribution: Distribution, histogram: ManyHistogram) -> None:
        self._distribution = distribution
        self._histogram = histogram
        self._counts = [0] * len(distribution.counts)
        self._total = 0.0

    def export(self) -> None:
        """Bring the histogram up to date."""
        counts, total = list(self._distribution.counts), self._distribution.total
        if counts != self._counts:
            added = [now - before for now, before in zip(counts, self._counts, strict=True)]
            self._histogram.add(added, total - self._total)
            self._counts, self._total = counts, total


def _known_values(described: Described) -> tuple[str, ...]:
    if len(described.labels) != 1:
        return ()
    (values,) = described.labels.values()
    return values if isinstance(values, tuple) else ()
