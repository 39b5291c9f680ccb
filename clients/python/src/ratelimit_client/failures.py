"""The count of what the client did because the service failed."""

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Failures:
    """How many calls failed open and closed, and how many reservations stayed unsettled, since the client was created.

    For your metrics.
    """

    open: int = 0
    """Calls allowed because the service failed."""
    closed: int = 0
    """Calls denied because the service failed."""
    unsettled: int = 0
    """Reservations that could not be settled: the service failed, or their holds had ended."""


class FailureCounter:
    """Counts for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._closed = 0
        self._unsettled = 0

    def snapshot(self) -> Failures:
        """The count so far."""
        with self._lock:
            return Failures(self._open, self._closed, self._unsettled)

    def count(self, *, allowed: bool) -> None:
        """One more call that failed, open if ALLOWED."""
        with self._lock:
            if allowed:
                self._open += 1
            else:
                self._closed += 1

    def count_unsettled(self) -> None:
        """One more reservation that could not be settled."""
        with self._lock:
            self._unsettled += 1
