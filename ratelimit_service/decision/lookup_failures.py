"""How look-ups of keys fail, for those who show it: callers get no more than that they do."""

from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final

from ratelimit_service.module_log import ModuleLog

SHOWN_SECONDS: Final = 5.0
"""For which a failure counts as what is the case."""

_LOG_SECONDS: Final = 10.0

_log = ModuleLog(__name__)


class LookupFailures:
    """Notes that keys which are not in memory could not be looked up. `now`: monotonic seconds."""

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._failed_at = -inf
        self._logged_at = -inf

    def note(self, error: Exception) -> None:
        """A look-up has failed. The log has the cause, once in ten seconds."""
        self._failed_at = self._now()
        if self._failed_at - self._logged_at >= _LOG_SECONDS:
            self._logged_at = self._failed_at
            _log.warning("keys that are not in memory cannot be looked up", error=str(error))

    @property
    def reason(self) -> str:
        """What is the case, in words for an operator; empty if look-ups succeed, or there were none."""
        failing = self._now() - self._failed_at < SHOWN_SECONDS
        return "keys that are not in memory cannot be looked up in Postgres; the log says why" if failing else ""
