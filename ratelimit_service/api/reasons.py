"""What services count by reason because a stranger may cause it any number of times, and log now and then."""

from collections.abc import Callable
from time import monotonic
from typing import Final

import structlog

LOG_SECONDS: Final = 60.0
"""Between two lines about one reason: many a second would hide others. Counters have all of them."""

_MAX_DETAIL: Final = 200  # characters

_log = structlog.stdlib.get_logger(__name__)


class ReasonCounts:
    """Counts by method and reason, and logs at most one line a minute for each: EVENT, with the number since the last.

    Reasons are the code's own, never a caller's, so there are few.
    """

    def __init__(self, event: str, now: Callable[[], float] = monotonic) -> None:
        self._event = event
        self._now = now
        self.counts: dict[tuple[str, str], int] = {}
        """The number so far, by method and reason."""
        self._logged: dict[tuple[str, str], tuple[float, int]] = {}

    def add(self, method: str, reason: str, detail: str = "", count: int = 1) -> None:
        """Count, and perhaps log it with DETAIL, which must contain no secret."""
        key = (method, reason)
        total = self.counts[key] = self.counts.get(key, 0) + count
        at, before = self._logged.get(key, (-LOG_SECONDS, 0))
        now = self._now()
        if now - at >= LOG_SECONDS:
            self._logged[key] = (now, total)
            _log.warning(self._event, method=method, reason=reason, times=total - before, detail=detail[:_MAX_DETAIL])
