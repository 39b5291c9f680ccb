"""The access log: a line for a share of the calls."""

from collections.abc import Callable
from time import monotonic
from typing import Final

import structlog

from ratelimit_service.errors import Code
from ratelimit_service.tracing.call import SampledCall
from ratelimit_service.tracing.sampling import Rate

MAX_LINES: Final = 100
"""Lines a second of one process: a line takes some 50 us, in which no call is decided."""

_log = structlog.stdlib.get_logger(__name__)


class AccessLog:
    """Writes at most MAX_LINES a second, and how many it has left out."""

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._rate = Rate(MAX_LINES, now)
        self._unreported = 0
        self.written = 0
        """Lines so far."""
        self.left_out = 0
        """Lines so far that were beyond MAX_LINES."""

    def write(self, call: SampledCall, method: str, code: Code, seconds: float) -> None:
        """Write the line of CALL, which has ended with CODE after so many SECONDS."""
        if not self._rate.admit():
            self.left_out += 1
            self._unreported += 1
            return
        if self._unreported:
            _log.warning("lines of the access log left out", lines=self._unreported)
            self._unreported = 0
        self.written += 1
        fields = dict(call.attributes)
        if call.error:
            fields["error"] = call.error
        _log.info(
            "access",
            method=method,
            caller=call.caller,
            peer=call.peer,
            code=code.name,
            milliseconds=round(seconds * 1000, 3),
            **fields,
        )
