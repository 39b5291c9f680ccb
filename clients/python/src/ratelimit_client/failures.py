"""The count of what the client did because the service failed."""

import threading
from dataclasses import dataclass
from typing import Literal, TypeAlias

Outcome: TypeAlias = Literal["open", "closed", "unsettled"]
"""What a failure led to: the name of its counter in `Failures`."""


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
        self._counts: dict[Outcome, int] = {"open": 0, "closed": 0, "unsettled": 0}

    def snapshot(self) -> Failures:
        """The count so far."""
        with self._lock:
            return Failures(**self._counts)

    def count(self, outcome: Outcome) -> None:
        """One more failure."""
        with self._lock:
            self._counts[outcome] += 1
