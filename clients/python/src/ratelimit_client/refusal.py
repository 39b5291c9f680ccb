"""What an HTTP or gRPC caller is answered when its call may not go on."""

from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Self

import grpc

from ._details import refusal_status
from .decision import Decision, Reason
from .errors import InvalidCheck
from .headers import HeaderStyle, limit_headers, retry_after_seconds

_QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
_QUOTA_EXCEEDED_TITLE = "Request cannot be satisfied as assigned quota has been exceeded"

_TEXTS = {
    Reason.KEY_UNKNOWN: (HTTPStatus.UNAUTHORIZED, "The API key is not known."),
    Reason.KEY_REVOKED: (HTTPStatus.UNAUTHORIZED, "The API key was revoked."),
    Reason.KEY_EXPIRED: (HTTPStatus.UNAUTHORIZED, "The API key has expired."),
    Reason.KEY_SUSPENDED: (HTTPStatus.FORBIDDEN, "The API key is suspended."),
    Reason.DEGRADED_DENIED: (HTTPStatus.SERVICE_UNAVAILABLE, "The rate limit could not be checked; try again."),
}

_GRPC_CODES = {
    HTTPStatus.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    HTTPStatus.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """One answer for both worlds: an HTTP status with a problem, or a gRPC status with details."""

    status: HTTPStatus
    reason: str
    detail: str
    decision: Decision | None = None
    """The denial behind it. None when there was nothing to decide: no key, or a malformed one."""

    @classmethod
    def of_decision(cls, decision: Decision) -> Self:
        """For a denial."""
        status, detail = _text(decision)
        return cls(status, decision.reason.name, detail, decision)

    @classmethod
    def of_invalid_check(cls, error: InvalidCheck) -> Self:
        """For a call that the service could not make sense of: a fault of the caller that sent it."""
        if error.field == "api_key":
            return cls(HTTPStatus.UNAUTHORIZED, error.reason, "The API key is malformed.")
        return cls(HTTPStatus.BAD_REQUEST, error.reason, error.message)

    @classmethod
    def of_missing_key(cls) -> Self:
        """For a call without an API key."""
        return cls(HTTPStatus.UNAUTHORIZED, "KEY_MISSING", "No API key was sent.")

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC status."""
        return _GRPC_CODES[self.status]

    @property
    def retry_delay(self) -> timedelta | None:
        """How long until the same call fits. None when no wait would help."""
        return None if self.decision is None else self.decision.retry_after

    def headers(self, style: HeaderStyle) -> dict[str, str]:
        """The headers, with the limits in STYLE."""
        headers = {} if self.decision is None else limit_headers(self.decision, style)
        if self.status is HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "ApiKey"  # RFC 9110 wants a challenge with every 401
        return headers

    def problem(self) -> dict[str, object]:
        """The body, to be sent as JSON with content type `application/problem+json` (RFC 9457)."""
        if self.status is not HTTPStatus.TOO_MANY_REQUESTS:
            return self._problem("about:blank", self.status.phrase)
        enforced = () if self.decision is None else self.decision.enforced
        return {
            **self._problem(_QUOTA_EXCEEDED, _QUOTA_EXCEEDED_TITLE),
            "violated-policies": [limit.name for limit in enforced if limit.would_deny],
        }

    def status_details(self) -> bytes:
        """The serialized `google.rpc.Status` for the trailer `grpc-status-details-bin`."""
        limit = "" if self.decision is None else self.decision.limit
        number: int = self.code.value[0]
        return refusal_status(number, self.detail, self.reason, {"limit": limit} if limit else {}, self.retry_delay)

    def _problem(self, kind: str, title: str) -> dict[str, object]:
        return {
            "type": kind,
            "title": title,
            "status": int(self.status),
            "detail": self.detail,
            "reason": self.reason,
        }


def _text(decision: Decision) -> tuple[HTTPStatus, str]:
    if decision.reason is Reason.OVER_LIMIT:
        wait = retry_after_seconds(decision)
        again = "." if wait is None else f"; try again in {wait} s."
        return HTTPStatus.TOO_MANY_REQUESTS, f'Over the limit "{decision.limit}"{again}'
    if decision.reason is Reason.COST_EXCEEDS_CAPACITY:
        return (
            HTTPStatus.TOO_MANY_REQUESTS,
            f'The call costs more than the limit "{decision.limit}" ever holds; do not try again.',
        )
    return _TEXTS.get(decision.reason, (HTTPStatus.FORBIDDEN, "The call was denied."))
