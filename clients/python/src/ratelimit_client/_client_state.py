"""What the clients for threads and for asyncio share: everything but sending."""

import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Protocol

import grpc

from ._denial_cache import CacheKey, DenialCache
from ._failure_log import FailureLog
from ._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitResponse
from ._request import CheckRequest
from ._target import check_target
from .decision import Decision, Origin
from .error import DETAILS_KEY, OVERLOADED, RateLimitError, client_is_closed, error_of, is_failure
from .failures import FailureCounter, Outcome
from .options import ClientOptions


class Status(Protocol):
    """A call that ended with an error, of either kind that gRPC has."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


class ClientState:
    """Turns responses and errors into decisions, caches denials, counts and reports failures.

    Raises ValueError for a TARGET that no service can be called at.
    """

    def __init__(self, target: str, options: ClientOptions) -> None:
        check_target(target)
        self._options = options
        self._log = FailureLog(target, options.logger, options.clock)
        self._denials = DenialCache(
            options.denial_cache_size, timedelta(seconds=options.denial_cache_max_age), options.clock
        )
        self.failures = FailureCounter()
        self.closed = False
        """Whether the client is closed, so that nothing is sent any more."""
        self.metadata = (("authorization", f"Bearer {options.token}"),) if options.token else ()

    def cached(self, request: CheckRequest) -> Decision | None:
        """The cached denial of REQUEST, if there is one. Raises RateLimitError when the client is closed."""
        self.raise_if_closed()
        if not request.cacheable or not self._denials:
            return None
        return self._denials.get(CacheKey.of(request.message))

    def decided(self, request: CheckRequest, response: CheckLimitResponse) -> Decision:
        """The service's decision."""
        if not response.allowed and request.cacheable:
            self._denials.put(CacheKey.of(request.message), response)
        return Decision(response, Origin.SERVICE)

    def failed(self, status: Status) -> Decision:
        """What a call that ended with an error results in: it fails open or closed, or raises RateLimitError.

        An error that comes of closing the client is no failure of the service.
        """
        self.raise_if_closed()
        return self.failed_by(error_from(status))

    def failed_by(self, error: RateLimitError) -> Decision:
        """The same by the error itself."""
        if not is_failure(error):
            raise error
        fail_open = self._options.fail_open
        self._report(error, "open" if fail_open else "closed")
        return Decision(_FAILED_OPEN if fail_open else _FAILED_CLOSED, Origin.FALLBACK, failure=error)

    def unsettled(self, error: RateLimitError) -> None:
        """Count and report a reservation that could not be settled."""
        self._report(error, "unsettled")

    def measured(self, decision: Decision, began: float) -> Decision:
        """DECISION, once metrics have it. BEGAN is when the call did, by `time.monotonic`."""
        if self._options.metrics is not None:
            self._options.metrics.decided(decision, time.monotonic() - began)
        return decision

    def raise_if_closed(self) -> None:
        """Raise the RateLimitError of a call of a closed client."""
        if self.closed:
            raise client_is_closed()

    def _report(self, error: RateLimitError, outcome: Outcome) -> None:
        self.failures.count(outcome)
        if self._options.metrics is not None:
            self._options.metrics.failed(error, outcome)
        if self._options.on_failure is None:
            self._log.failed(error, outcome)
        else:
            self._options.on_failure(error)


def is_retryable(status: Status, remaining: float) -> bool:
    """Whether a call that ended with STATUS is sent again, with REMAINING seconds until its deadline.

    A server with more calls than it can decide must not get each of them twice.
    """
    return status.code() is grpc.StatusCode.UNAVAILABLE and remaining > 0 and error_from(status).reason != OVERLOADED


def error_from(status: Status) -> RateLimitError:
    """The error of a call that ended with STATUS."""
    details = next((_raw(value) for key, value in status.trailing_metadata() or () if key == DETAILS_KEY), None)
    return error_of(status.code(), status.details() or "", details)


_FAILED_OPEN = CheckLimitResponse(
    allowed=True, reason=CheckLimitResponse.DEGRADED_ALLOWED, source=CheckLimitResponse.DEGRADED
)
_FAILED_CLOSED = CheckLimitResponse(reason=CheckLimitResponse.DEGRADED_DENIED, source=CheckLimitResponse.DEGRADED)


def _raw(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
