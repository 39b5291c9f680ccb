"""The metrics of a whole server: the sum of what its processes count, and what none of them knows of itself."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Final

from ratelimit_service.metrics import catalogue
from ratelimit_service.metrics.catalogue import Described
from ratelimit_service.metrics.ended import settled
from ratelimit_service.metrics.merge import MergedFiles

DIRECTORY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable with the workers' shared folder. Must be set when a worker's interpreter starts."""

SHARED_SECONDS: Final = 0.5
"""Age up to which a result also answers those who ask for it later. Workers write theirs once a second."""


class Scraper:
    """Adds up the metrics of all processes that share a folder: once at a time, however many ask."""

    def __init__(  # noqa: PLR0913  what it shows
        self,
        directory: Path,
        workers: Callable[[], int],
        now: Callable[[], float] = monotonic,
        *,
        configured: int = 0,
        stores: Callable[[], Mapping[str, bool]] = dict,
        certificates: Callable[[], Mapping[str, int]] = dict,
        build: Mapping[str, str] | None = None,
    ) -> None:
        """WORKERS counts the workers that serve, of those that are CONFIGURED.

        STORES returns whether each of them answers. CERTIFICATES returns when those in the file of a setting end, in
        seconds since 1970, and is called in a thread. BUILD is what the server runs, by the labels of the metric.
        """
        self._directory = directory
        self._files = MergedFiles(directory)
        self._workers = workers
        self._configured = configured
        self._stores = stores
        self._certificates = certificates
        self._build = build
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
            text = self._files.text()
        return (text + "".join(self._of_server())).encode()

    def _of_server(self) -> Iterator[str]:
        yield from _gauge(catalogue.WORKERS, [({}, self._workers())])
        yield from _gauge(catalogue.WORKERS_CONFIGURED, [({}, self._configured)])
        yield from _gauge(catalogue.STORE_UP, [({"store": name}, int(up)) for name, up in self._stores().items()])
        ends = self._certificates().items()
        yield from _gauge(catalogue.CERTIFICATE_END, [({"setting": setting}, end) for setting, end in ends])
        if self._build is not None:
            yield from _gauge(catalogue.BUILD, [(self._build, 1)])


def _gauge(described: Described, samples: list[tuple[Mapping[str, str], int]]) -> Iterator[str]:
    """The lines of a gauge. Values of labels are the code's own and need no escapes."""
    yield f"# HELP {described.name} {described.meaning}\n# TYPE {described.name} {described.kind}\n"
    for labels, value in samples:
        inside = ",".join(f'{label}="{text}"' for label, text in sorted(labels.items()))
        yield f"{described.name}{{{inside}}} {value}.0\n" if inside else f"{described.name} {value}.0\n"
