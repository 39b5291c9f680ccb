"""What a method responds with in place of an error.

Gateways may be configured to let a call through when the limiter reports an error. So what a client can provoke must
not be an error: the methods that a gateway asks respond with a denial instead, where they can. These remain errors, for
the gateway's failure mode to decide on:

- what no client causes: an unavailable store where the configuration demands an error (FAIL), an internal error;
- a caller that may not call: no token or a wrong one, an insufficient role;
- a deadline that has passed, whose caller no longer waits, and overload;
- in Check what the route's author wrote in `context_extensions`.
"""

import re
from collections.abc import Callable
from typing import Final, TypeAlias

from ratelimit_service.api.reasons import ReasonCounts
from ratelimit_service.errors import InvalidArgument, ResourceExhausted, ServiceError, Unimplemented

Fallback: TypeAlias = Callable[[ServiceError], bytes | None]
"""The message to respond with in place of an error; None where the caller receives the error itself."""

REASON: Final = "REQUEST_OUT_OF_BOUNDS"
"""The reason of the denial, for programs."""

DETAIL: Final = "The request is larger than what the rate limiter reads, or malformed."
"""The same for people."""

_INDEX: Final = re.compile(r"\[\d+\]")


def no_fallback(_error: ServiceError) -> bytes | None:
    """The fallback of a method that reports all errors."""
    return None


class OutOfBounds:
    """The fallback of a method that denies requests which are too large or malformed: with RESPONSE, and counted.

    METHOD is how it is counted. Errors in fields that begin with OURS are reported: no client can cause them.
    """

    def __init__(self, method: str, response: bytes, counts: ReasonCounts, ours: str = "") -> None:
        self._method = method
        self._response = response
        self._counts = counts
        self._ours = ours

    def __call__(self, error: ServiceError) -> bytes | None:
        """The response in place of ERROR, None if it is to be reported."""
        if isinstance(error, InvalidArgument):
            field = error.violations[0].field
            if self._ours and field.startswith(self._ours):
                return None
            reason = _INDEX.sub("", field)
        elif isinstance(error, ResourceExhausted | Unimplemented):
            reason = error.reason
        else:
            return None
        self._counts.add(self._method, reason, error.message)
        return self._response
