"""How busy one process is, as Prometheus metrics."""

import resource
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from prometheus_client import CollectorRegistry

from ratelimit_service.metrics import catalogue
from ratelimit_service.metrics.export import gauge
from ratelimit_service.process_name import process_name

PERIOD: Final = 10
"""Exports, one a second, over which use and delays are shown: a scrape sees a few seconds between two others."""

_STATM: Final = Path("/proc/self/statm")


class Calls(Protocol):
    """The part of the overload control that is read here."""

    in_flight: int

    def take_longest_delay(self) -> float:
        """Seconds that the event loop was late at most, since the last time."""
        ...


class _Moment(NamedTuple):
    at: float
    cpu: float
    loop: float


class ProcessMetrics:
    """Shows how busy this process is. Made, and updated, in the thread of its event loop."""

    def __init__(self, registry: CollectorRegistry, calls: Calls) -> None:
        name = process_name()
        self._calls = calls
        self._moments = deque([_now()], PERIOD + 1)
        self._delays: deque[float] = deque(maxlen=PERIOD)
        self._cpu, self._loop, self._delay, self._in_flight, self._memory = (
            gauge(described, registry).labels(name)
            for described in (
                catalogue.PROCESS_CPU,
                catalogue.PROCESS_LOOP,
                catalogue.PROCESS_DELAY,
                catalogue.PROCESS_CALLS,
                catalogue.PROCESS_MEMORY,
            )
        )
        gauge(catalogue.PROCESS_START, registry).labels(name).set(time.time())

    def update(self) -> None:
        """Bring the metrics up to date. Once a second."""
        self._moments.append(_now())
        first, last = self._moments[0], self._moments[-1]
        if seconds := last.at - first.at:
            self._cpu.set((last.cpu - first.cpu) / seconds)
            self._loop.set((last.loop - first.loop) / seconds)
        self._delays.append(self._calls.take_longest_delay())
        self._delay.set(max(self._delays))
        self._in_flight.set(self._calls.in_flight)
        with suppress(OSError):  # not Linux, or no descriptor is left
            self._memory.set(int(_STATM.read_text().split()[1]) * resource.getpagesize())


def _now() -> _Moment:
    return _Moment(time.monotonic(), time.process_time(), time.thread_time())
