"""The count of calls that the service could not be asked about."""

import threading


class Failures:
    """How many calls failed open and closed since the client was made. Read it for your metrics."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._closed = 0

    @property
    def open(self) -> int:
        """Calls allowed because the service could not be asked."""
        return self._open

    @property
    def closed(self) -> int:
        """Calls denied because the service could not be asked."""
        return self._closed

    def count(self, *, allowed: bool) -> None:
        """One more failed call, which was ALLOWED or not."""
        with self._lock:
            if allowed:
                self._open += 1
            else:
                self._closed += 1
