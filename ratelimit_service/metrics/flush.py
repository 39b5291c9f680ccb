"""The flush of usage as Prometheus metrics, of whichever operations process leads."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter

from ratelimit_service.metrics import catalogue
from ratelimit_service.metrics.export import EXPORT_SECONDS, CounterExport, counter, gauge


class Tally(Protocol):
    """What the flush counts about itself, as far as it is read here."""

    covered_us: int
    backlog_segments: int
    backlog_bytes: int
    rows: int
    segments: int
    merged_segments: int
    other_calls: int
    lost_calls: int
    unreadable: int
    flushes: int
    flush_seconds: float

    @property
    def losses(self) -> Mapping[str, int]:
        """The number of losses, by cause."""
        ...

    @property
    def raises(self) -> Mapping[str, int]:
        """The number of quotas that were raised by usage, by what became of them."""
        ...


class Store(Protocol):
    """What the bucket store counts about usage, as far as it is read here."""

    @property
    def lost(self) -> int:
        """Calls that it could not count."""
        ...

    @property
    def squeezed(self) -> int:
        """Calls that it counted as resource `other` because there was no room."""
        ...


class FlushMetrics:
    """Copies a tally to metrics."""

    def __init__(self, tally: Tally, store: Store, leading: Callable[[], bool], now_us: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self._tally = tally
        self._now_us = now_us
        self._counters = [
            CounterExport(read, counter(described, self.registry))
            for described, read in (
                (catalogue.USAGE_ROWS, lambda: tally.rows),
                (catalogue.USAGE_SEGMENTS, lambda: tally.segments),
                (catalogue.USAGE_MERGED, lambda: tally.merged_segments),
                (catalogue.USAGE_OTHER, lambda: tally.other_calls),
                (catalogue.USAGE_LOST_CALLS, lambda: tally.lost_calls),
                (catalogue.USAGE_UNREADABLE, lambda: tally.unreadable),
                (catalogue.USAGE_FLUSHES, lambda: tally.flushes),
                (catalogue.USAGE_FLUSH_SECONDS, lambda: tally.flush_seconds),
            )
        ]
        self._losses = counter(catalogue.USAGE_LOSSES, self.registry)
        self._raises = counter(catalogue.USAGE_RAISES, self.registry)
        self._labelled: dict[tuple[Counter, str], CounterExport] = {}
        self._gauges = [
            (gauge(described, self.registry), read)
            for described, read in (
                (catalogue.USAGE_LEADER, lambda: float(leading())),
                (catalogue.USAGE_LAG, self._lag),
                (catalogue.USAGE_BACKLOG_SEGMENTS, lambda: tally.backlog_segments),
                (catalogue.USAGE_BACKLOG_BYTES, lambda: tally.backlog_bytes),
                (catalogue.USAGE_STORE_LOST, lambda: store.lost),
                (catalogue.USAGE_STORE_SQUEEZED, lambda: store.squeezed),
            )
        ]

    async def keep(self) -> None:
        """Export once a second, until cancelled."""
        while True:
            self.export()
            await asyncio.sleep(EXPORT_SECONDS)

    def export(self) -> None:
        """Bring the metrics up to date."""
        for family, counts in ((self._losses, self._tally.losses), (self._raises, self._tally.raises)):
            for value in counts:
                if (family, value) not in self._labelled:
                    read_count = partial(counts.__getitem__, value)
                    self._labelled[family, value] = CounterExport(read_count, family.labels(value))
        for each in (*self._counters, *self._labelled.values()):
            each.export()
        for shown, read in self._gauges:
            shown.set(read())

    def _lag(self) -> float:
        return max(self._now_us() - self._tally.covered_us, 0) / 1e6
