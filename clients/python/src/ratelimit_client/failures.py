"""The count of calls that failed open and closed."""

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Failures:
    """How many calls failed open and closed since the client was created, for your metrics."""

    open: int = 0
    """Calls allowed because the service failed."""
    closed: int = 0
    """Calls denied because the service failed."""


class FailureCounter:
    """Counts for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._closed = 0

    def snapshot(self) -> Failures:
        """The count so far."""
        with self._lock:
            return Failures(self._open, self._closed)

    def count(self, *, allowed: bool) -> None:
        """One more call that failed, open if ALLOWED."""
        with self._lock:
            if allowed:
                self._open += 1
            else:
                self._closed += 1
