"""The lines in the log about calls that failed, on either transport: few, whatever the rate of calls is."""

from collections.abc import Callable
from time import monotonic
from typing import Final

import structlog

from ratelimit_service.errors import Code, ServiceError

_SERVER_ERRORS: Final = frozenset({Code.UNAVAILABLE, Code.INTERNAL, Code.DEADLINE_EXCEEDED})
"""The codes of the server's failures, as opposed to a caller's mistakes."""

_log = structlog.stdlib.get_logger(__name__)


class FailureLog:
    """Logs failures of one method that is called thousands of times a second: at most once a second for each reason.

    A line has the number of calls that failed so since the last one, and the message of the last. A caller's own
    mistakes are not logged.
    """

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        """NOW is the time in seconds, by any clock."""
        self._now = now
        self._unreported: dict[str, int] = {}
        self._reported_at: dict[str, float] = {}

    def report(self, error: ServiceError, method: str) -> None:
        """A call of METHOD, which is its full name, failed with ERROR."""
        if error.code not in _SERVER_ERRORS:
            return
        reason, now = error.reason, self._now()
        self._unreported[reason] = self._unreported.get(reason, 0) + 1
        if now - self._reported_at.get(reason, -1.0) >= 1.0:
            _log.warning(
                "calls failed",
                method=method,
                code=error.code.name,
                reason=reason,
                calls=self._unreported.pop(reason),
                last=error.message,
            )
            self._reported_at[reason] = now
