"""One worker's counts as Prometheus metrics."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.metrics.counts import SECONDS_BOUNDS, SIZE_BOUNDS, Counts, Spread

FLUSH_SECONDS: Final = 1.0


class Engine(Protocol):
    """What is read of an engine that decides."""

    tally: list[list[int]]


class Cache(Protocol):
    """What is read of the policy cache."""

    @property
    def misses(self) -> int:
        """Look-ups so far that memory could not answer."""
        ...

    @property
    def unreadable(self) -> int:
        """Rows met so far that made no valid policy."""
        ...

    def __len__(self) -> int: ...


class Rules(Protocol):
    """What is read of the cache of descriptor rules."""

    @property
    def unreadable(self) -> int:
        """Rows met so far that made no valid rules."""
        ...


class Feed(Protocol):
    """What is read of the follower of changes."""

    @property
    def current(self) -> bool:
        """Whether the change feed could be read at the last attempt."""
        ...


class Watched(NamedTuple):
    """What one worker's metrics tell of: its two engines, and what it has in memory."""

    checks: Engine
    descriptors: Engine
    policies: Cache
    rules: Rules
    feed: Feed


class _Histogram(Histogram):
    """A histogram that takes whole spreads."""

    def grow(self, counts: Sequence[int], total: float) -> None:
        """Add so many values to each bucket, whose sum is TOTAL."""
        for bucket, count in zip(self._buckets, counts, strict=True):
            bucket.inc(count)
        self._sum.inc(total)


class _Growing:
    """A spread and the histogram that it goes into."""

    def __init__(self, spread: Spread, histogram: _Histogram) -> None:
        self._spread = spread
        self._histogram = histogram
        self._counts = [0] * len(spread.counts)
        self._total = 0.0

    def flush(self) -> None:
        counts, total = list(self._spread.counts), self._spread.total
        if counts != self._counts:
            grown = [now - before for now, before in zip(counts, self._counts, strict=True)]
            self._histogram.grow(grown, total - self._total)
            self._counts, self._total = counts, total


class _Rising:
    """A number that only rises and the counter that it goes into."""

    def __init__(self, read: Callable[[], int], counter: Counter) -> None:
        self._read = read
        self._counter = counter
        self._flushed = 0

    def flush(self) -> None:
        now = self._read()
        if now != self._flushed:
            self._counter.inc(now - self._flushed)
            self._flushed = now


class WorkerMetrics:
    """Puts what one worker has counted into its Prometheus metrics."""

    def __init__(
        self, watched: Watched, counts: Counts, breaker_open: Callable[[], bool], now: Callable[[], float]
    ) -> None:
        cache, rules = watched.policies, watched.rules
        self.registry = CollectorRegistry()
        self._cache = cache
        self._feed = watched.feed
        self._calls = counts.calls
        round_trips = counts.round_trips
        self._breaker_open = breaker_open
        self._now = now
        self._feed_seen = now()
        self._rising: dict[tuple[str, ...], _Rising] = {}
        self._count_decisions(watched.checks, "decisions", "Decisions made.")
        self._count_decisions(watched.descriptors, "descriptor_decisions", "Descriptors decided, one by one.")
        self._call_counter = self._counter("calls", "Calls answered.", "method", "code")
        for name, read, text in (
            ("policy_cache_misses", lambda: cache.misses, "Look-ups of a policy that memory could not answer."),
            ("unreadable_policies", lambda: cache.unreadable, "Rows read that make no valid policy. Alert on it."),
            ("unreadable_rules", lambda: rules.unreadable, "Rows read that make no valid rules. Alert on it."),
            ("store_failures", lambda: round_trips.failures, "Round trips to the bucket store that were not answered."),
        ):
            self._rising[(name,)] = _Rising(read, self._counter(name, text))
        self._growing = [
            _Growing(
                round_trips.seconds,
                self._histogram("store_round_trip_seconds", "Round trips to the store.", SECONDS_BOUNDS),
            ),
            _Growing(
                round_trips.sizes, self._histogram("store_round_trip_charges", "Charges in a round trip.", SIZE_BOUNDS)
            ),
        ]
        self._policies = self._gauge("policy_cache_policies", "Policies in memory.", "livesum")
        self._feed_age = self._gauge("change_feed_age_seconds", "Seconds since the feed was last read.", "livemax")
        self._breaker = self._gauge("store_breaker_open", "1 while the bucket store is not asked.", "livemax")

    def flush(self) -> None:
        """Bring the metrics up to date."""
        for method, code in list(self._calls.by_method):
            key = ("calls", method, code.name)
            if key not in self._rising:
                self._rising[key] = _Rising(
                    lambda method=method, code=code: self._calls.by_method[method, code],  # type: ignore[misc]
                    self._call_counter.labels(method, code.name),
                )
        for rising in self._rising.values():
            rising.flush()
        for growing in self._growing:
            growing.flush()
        if self._feed.current:
            self._feed_seen = self._now()
        self._feed_age.set(self._now() - self._feed_seen)
        self._policies.set(len(self._cache))
        self._breaker.set(self._breaker_open())

    async def keep(self) -> None:
        """Flush once a second, for ever."""
        while True:
            self.flush()
            await asyncio.sleep(FLUSH_SECONDS)

    def _count_decisions(self, engine: Engine, name: str, text: str) -> None:
        counter = self._counter(name, text, "reason", "source")
        for reason in Reason:
            for source in Source:
                self._rising[name, reason.name, source.name] = _Rising(
                    lambda reason=reason, source=source: engine.tally[reason][source],  # type: ignore[misc]
                    counter.labels(reason.name, source.name),
                )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"ratelimit_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, bounds: Sequence[float]) -> _Histogram:
        return _Histogram(f"ratelimit_{name}", text, registry=self.registry, buckets=bounds)

    def _gauge(self, name: str, text: str, mode: str) -> Gauge:
        return Gauge(f"ratelimit_{name}", text, registry=self.registry, multiprocess_mode=mode)  # type: ignore[arg-type]
