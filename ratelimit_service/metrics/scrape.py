"""The sum of all workers' metrics."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from ratelimit_service.metrics.ended import settled

DIRECTORY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable with the workers' shared folder. Must be set when a worker's interpreter starts."""

SHARED_SECONDS: Final = 0.5
"""Age up to which a result also answers those who ask for it later. Workers write theirs once a second."""


class Scraper:
    """Adds up the metrics of all processes that share a folder: once at a time, however many ask."""

    def __init__(self, directory: Path, workers: Callable[[], int], now: Callable[[], float] = monotonic) -> None:
        """WORKERS counts the workers that serve."""
        self._directory = directory
        self._registry = CollectorRegistry()
        MultiProcessCollector(self._registry, str(directory))  # type: ignore[no-untyped-call]
        self._registry.register(_Workers(workers))
        self._now = now
        self._latest: asyncio.Task[bytes] | None = None
        self._fresh_until = 0.0

    async def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        if self._latest is None or (self._latest.done() and self._now() >= self._fresh_until):
            self._latest = asyncio.create_task(self._collect())
        return await asyncio.shield(self._latest)

    async def _collect(self) -> bytes:
        text = await asyncio.to_thread(self._read)
        self._fresh_until = self._now() + SHARED_SECONDS
        return text

    def _read(self) -> bytes:
        with settled(self._directory):
            return generate_latest(self._registry)


class _Workers(Collector):
    """The number of workers that serve, which is known to none of them."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily("ratelimit_workers", "Workers of this server that serve.", value=self._count())
