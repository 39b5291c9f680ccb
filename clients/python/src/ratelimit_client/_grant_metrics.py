"""Reports what a client decides by grants to its metrics."""

import threading
from collections.abc import Callable
from dataclasses import fields

from .grants import Grants
from .metrics import ClientMetrics
from .options import Clock

_SECOND = 1_000_000_000  # nanoseconds


class GrantMetrics:
    """Reports how much the numbers of READ have changed to METRICS, if there are any. For all threads."""

    def __init__(self, read: Callable[[], Grants], metrics: ClientMetrics | None, clock: Clock) -> None:
        self._read = read
        self._metrics = metrics
        self._clock = clock
        self._lock = threading.Lock()
        self._reported = Grants()
        self._due = 0

    def report_sometimes(self) -> None:
        """Report unless that was done within the last second."""
        if self._metrics is not None and self._clock() >= self._due:
            self.report()

    def report(self) -> None:
        """Report what has changed since the last time, if anything has."""
        if self._metrics is None:
            return
        with self._lock:
            self._due = self._clock() + _SECOND
            now = self._read()
            change, self._reported = _since(self._reported, now), now
        if change != Grants():
            self._metrics.granted(change)


def _since(before: Grants, now: Grants) -> Grants:
    """How much each number has changed."""
    return Grants(*(getattr(now, each.name) - getattr(before, each.name) for each in fields(Grants)))
