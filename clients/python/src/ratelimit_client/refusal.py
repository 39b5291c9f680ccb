"""The response to a caller whose call may not proceed, over HTTP or gRPC."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import NotRequired, Self, TypedDict

import grpc

from ._error_details import status_with_details
from .decision import Decision, Reason
from .error import RateLimitError
from .headers import HeaderStyle, enforced_limits, limit_headers, retry_after_seconds

_QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
_QUOTA_EXCEEDED_TITLE = "Request cannot be satisfied as assigned quota has been exceeded"

_RESPONSES = {
    Reason.KEY_UNKNOWN: (HTTPStatus.UNAUTHORIZED, "The API key is not known."),
    Reason.KEY_REVOKED: (HTTPStatus.UNAUTHORIZED, "The API key was revoked."),
    Reason.KEY_EXPIRED: (HTTPStatus.UNAUTHORIZED, "The API key has expired."),
    Reason.KEY_SUSPENDED: (HTTPStatus.FORBIDDEN, "The API key is suspended."),
    Reason.DEGRADED_DENIED: (HTTPStatus.SERVICE_UNAVAILABLE, "The rate limit could not be checked; try again."),
}

_CODES = {
    HTTPStatus.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    HTTPStatus.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}

Problem = TypedDict(
    "Problem",
    {
        "type": str,
        "title": str,
        "status": int,
        "detail": str,
        "reason": str,
        "violated-policies": NotRequired[list[str]],
    },
)
"""A body of type `application/problem+json` (RFC 9457). With 429, `violated-policies` has the limits that deny."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The response to a caller whose call may not proceed."""

    http_status: HTTPStatus
    """400, 401, 403, 429 or 503."""
    reason: str
    """For programs: the name of a Reason or of a `ratelimit.v1.ErrorReason`, or KEY_MISSING."""
    detail: str
    """For people."""
    _decision: Decision | None = None

    @classmethod
    def for_decision(cls, decision: Decision) -> Self | None:
        """The response to a denial. None when the call may proceed."""
        if decision.allowed:
            return None
        status, detail = _response(decision)
        return cls(status, decision.reason.name, detail, decision)

    @classmethod
    def for_error(cls, error: RateLimitError) -> Self | None:
        """The response to an invalid call. None for any other error, which is not the caller's.

        An API key that cannot be sent is denied like any other that does not exist: KEY_UNKNOWN.
        """
        if error.code is not grpc.StatusCode.INVALID_ARGUMENT:
            return None
        if error.field == "api_key":
            status, detail = _RESPONSES[Reason.KEY_UNKNOWN]
            return cls(status, Reason.KEY_UNKNOWN.name, detail)
        return cls(HTTPStatus.BAD_REQUEST, error.reason, error.message)

    @classmethod
    def for_missing_key(cls) -> Self:
        """The response to a call without an API key."""
        return cls(HTTPStatus.UNAUTHORIZED, "KEY_MISSING", "No API key was sent.")

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC status code."""
        return _CODES[self.http_status]

    def headers(self, style: HeaderStyle = HeaderStyle.IETF) -> dict[str, str]:
        """The headers: those of the decision in STYLE, and `WWW-Authenticate` with 401."""
        headers = {} if self._decision is None else limit_headers(self._decision, style)
        if self.http_status is HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "ApiKey"  # RFC 9110 requires a challenge with every 401
        return headers

    def problem(self) -> Problem:
        """The body of the HTTP response."""
        problem: Problem = {
            "type": "about:blank",
            "title": self.http_status.phrase,
            "status": int(self.http_status),
            "detail": self.detail,
            "reason": self.reason,
        }
        if self.http_status is HTTPStatus.TOO_MANY_REQUESTS:
            limits = [] if self._decision is None else enforced_limits(self._decision)
            problem["type"], problem["title"] = _QUOTA_EXCEEDED, _QUOTA_EXCEEDED_TITLE
            problem["violated-policies"] = [limit.name for limit in limits if limit.would_deny]
        return problem

    def grpc_status(self) -> bytes:
        """The serialized `google.rpc.Status` for the trailer `grpc-status-details-bin`."""
        limit = "" if self._decision is None else self._decision.limit
        retry_after = None if self._decision is None else self._decision.retry_after
        number: int = self.code.value[0]
        return status_with_details(number, self.detail, self.reason, {"limit": limit} if limit else {}, retry_after)


def _response(decision: Decision) -> tuple[HTTPStatus, str]:
    if decision.reason is Reason.OVER_LIMIT:
        seconds = retry_after_seconds(decision)
        wait = "" if seconds is None else f"; try again in {seconds} s"
        return HTTPStatus.TOO_MANY_REQUESTS, f'Over the limit "{decision.limit}"{wait}.'
    if decision.reason is Reason.COST_EXCEEDS_CAPACITY:
        return (
            HTTPStatus.TOO_MANY_REQUESTS,
            f'The call costs more than the limit "{decision.limit}" ever holds; do not try again.',
        )
    return _RESPONSES.get(decision.reason, (HTTPStatus.FORBIDDEN, "The call was denied."))
