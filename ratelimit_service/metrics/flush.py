"""The flush of usage as Prometheus metrics, of whichever operations process leads."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

from ratelimit_service.metrics.export import EXPORT_SECONDS, CounterExport


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
        self._counters: list[CounterExport] = []
        self._count("rows_flushed", "Counts of a series in a minute that were moved to Postgres.", lambda: tally.rows)
        self._count("segments_flushed", "Segments that were moved to Postgres.", lambda: tally.segments)
        self._count(
            "merged_segments",
            "Segments that span several minutes, because the bucket store had little room for counts.",
            lambda: tally.merged_segments,
        )
        self._count(
            "other_calls",
            "Calls counted as resource `other`: their key had 100 resources on that day.",
            lambda: tally.other_calls,
        )
        self._count("lost_calls", "Calls that are known to be lost. Alert on it.", lambda: tally.lost_calls)
        self._count(
            "unreadable", "Counts of the bucket store that could not be read. Alert on it.", lambda: tally.unreadable
        )
        self._count("flushes", "Transactions that moved counts to Postgres.", lambda: tally.flushes)
        self._count(
            "flush_seconds", "Time that these took, reading and removing included.", lambda: tally.flush_seconds
        )
        self._losses = Counter(
            "ratelimit_usage_losses",
            "Times that the bucket store was found to have lost counts. Alert on it.",
            ["cause"],
            registry=self.registry,
        )
        self._raises = Counter(
            "ratelimit_usage_quota_raises",
            "Quotas of keys to be raised by usage after the bucket store lost its data: raised; current (no less was "
            "used); ended; incomplete (raised, but usage of the whole window is not kept); unreadable; failed.",
            ["result"],
            registry=self.registry,
        )
        self._labelled: dict[tuple[Counter, str], CounterExport] = {}
        self._gauges = [
            (self._gauge(name, text), read)
            for name, text, read in (
                ("leader", "1 in the process that moves counts to Postgres.", lambda: float(leading())),
                ("lag_seconds", "Seconds since all counts of closed minutes were in Postgres.", self._lag),
                (
                    "backlog_segments",
                    "Segments in the bucket store that are to be moved.",
                    lambda: tally.backlog_segments,
                ),
                ("backlog_bytes", "Their size in the bucket store.", lambda: tally.backlog_bytes),
                (
                    "store_lost_calls",
                    "Calls that the bucket store had no room to count, since its data began.",
                    lambda: store.lost,
                ),
                (
                    "store_squeezed_calls",
                    "Calls counted as resource `other` for lack of room, since the bucket store's data began.",
                    lambda: store.squeezed,
                ),
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
        for gauge, read in self._gauges:
            gauge.set(read())

    def _lag(self) -> float:
        return max(self._now_us() - self._tally.covered_us, 0) / 1e6

    def _count(self, name: str, text: str, read: Callable[[], float]) -> None:
        counter = Counter(f"ratelimit_usage_{name}", text, registry=self.registry)
        self._counters.append(CounterExport(read, counter))

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"ratelimit_usage_{name}", text, registry=self.registry, multiprocess_mode="livemax")
