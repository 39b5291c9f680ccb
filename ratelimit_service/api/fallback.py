"""What a method responds with in place of an error.

Gateways may be configured to let a call through when the limiter reports an error. So what a client can provoke must
not be an error: the methods that a gateway asks respond with a denial instead, where they can. These remain errors, for
the gateway's failure mode to decide on:

- what no client causes: an unavailable store where the configuration demands an error (FAIL), an internal error;
- a caller that may not call: no token or a wrong one, an insufficient role;
- a deadline that has passed, whose caller no longer waits, and overload.

What the author of a gateway's route wrote wrongly is denied too: else every request of that route would pass unlimited.
"""

import re
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from ratelimit_service.api.reasons import ReasonCounts
from ratelimit_service.errors import InvalidArgument, ResourceExhausted, ServiceError, Unimplemented

Fallback: TypeAlias = Callable[[ServiceError], bytes | None]
"""The message to respond with in place of an error; None where the caller receives the error itself."""

REASON: Final = "REQUEST_OUT_OF_BOUNDS"
"""The reason of the denial, for programs."""

DETAIL: Final = "The request is larger than what the rate limiter reads, or malformed."
"""The same for people."""

ROUTE_REASON: Final = "ROUTE_MISCONFIGURED"
"""The reason of the denial of every request of a route whose author has to correct it."""

_INDEX: Final = re.compile(r"\[\d+\]")


def no_fallback(_error: ServiceError) -> bytes | None:
    """The fallback of a method that reports all errors."""
    return None


class OfRoute(NamedTuple):
    """The fields that the author of a route sets, by what their names begin with, and the response if one is wrong."""

    fields: str
    response: bytes


class OutOfBounds:
    """The fallback of a method that denies requests which are too large or malformed: with RESPONSE, and counted.

    METHOD is how it is counted. ROUTE is what is denied otherwise: no client can cause it.
    """

    def __init__(self, method: str, response: bytes, counts: ReasonCounts, route: OfRoute | None = None) -> None:
        self._method = method
        self._response = response
        self._counts = counts
        self._route = route

    def __call__(self, error: ServiceError) -> bytes | None:
        """The response in place of ERROR, None if it is to be reported."""
        response = self._response
        if isinstance(error, InvalidArgument):
            field = error.violations[0].field
            reason = _INDEX.sub("", field)
            if self._route is not None and field.startswith(self._route.fields):
                response = self._route.response
        elif isinstance(error, ResourceExhausted | Unimplemented):
            reason = error.reason
        else:
            return None
        self._counts.add(self._method, reason, error.message)
        return response
