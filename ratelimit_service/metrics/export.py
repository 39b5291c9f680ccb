"""Copying what is counted in plain numbers to Prometheus metrics."""

from collections.abc import Callable
from typing import Final

from prometheus_client import Counter

EXPORT_SECONDS: Final = 1.0
"""Between two exports."""


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
