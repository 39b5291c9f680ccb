"""Warnings about a service that fails, for clients without `on_failure`."""

import logging
import threading
from collections.abc import Callable

import grpc

from .error import OVERLOADED, RateLimitError
from .failures import Outcome

_MINUTE = 60_000_000_000  # nanoseconds

_DONE: dict[Outcome, str] = {
    "open": "Rate limit not checked, call allowed (fail open)",
    "closed": "Rate limit not checked, call denied (fail closed)",
    "unsettled": "Reservation not settled, its estimate stays charged",
}
_ADVICE = {
    grpc.StatusCode.UNAVAILABLE: (
        "Check that the service runs there and can be reached; the client's ready() names the cause"
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        "No answer within the deadline: check the load of the service and the network, or raise the deadline"
    ),
    grpc.StatusCode.UNAUTHENTICATED: "Check the option token",
    grpc.StatusCode.PERMISSION_DENIED: "Check the option token",
    grpc.StatusCode.NOT_FOUND: "The hold had ended: extend it, or reserve with a longer one",
}


class FailureLog:
    """Logs the first failure at once and then one a minute, with the number of those since. For all threads."""

    def __init__(self, target: str, logger: logging.Logger, clock: Callable[[], int]) -> None:
        self._target = target
        self._logger = logger
        self._clock = clock
        self._lock = threading.Lock()
        self._logged_at: int | None = None
        self._more = 0

    def failed(self, error: RateLimitError, outcome: Outcome) -> None:
        """Log ERROR and its OUTCOME, or count it for the next warning."""
        with self._lock:
            now = self._clock()
            if self._logged_at is not None and now - self._logged_at < _MINUTE:
                self._more += 1
                return
            self._logged_at = now
            more, self._more = self._more, 0
        reason = f" ({error.reason})" if error.reason else ""
        message = f": {error.message.removesuffix('.')}" if error.message else ""
        since = f" {more} more failure{'s' if more > 1 else ''} since the last warning." if more else ""
        self._logger.warning(
            "%s: %s%s from %s%s. %s.%s",
            _DONE[outcome],
            error.code.name,
            reason,
            self._target,
            message,
            _advice(error),
            since,
        )


def _advice(error: RateLimitError) -> str:
    """What to do about ERROR."""
    if error.code is grpc.StatusCode.UNAVAILABLE and error.reason == OVERLOADED:
        return "The service has more calls than it can decide: add workers or servers"
    return _ADVICE.get(error.code, "See the log of the service")
