"""A denial as the client that is denied receives it: as a problem in JSON, or as a gRPC status."""

import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, NamedTuple, TypeAlias

from ratelimit_service.api.headers import Header
from ratelimit_service.decision.reason import Reason
from ratelimit_service.errors import Code

PROBLEM_TYPE: Final = "application/problem+json"
"""The content type of `Denial.problem` (RFC 9457)."""

_GRPC_TYPE: Final = "application/grpc"
_QUOTA_EXCEEDED: Final = "https://iana.org/assignments/http-problem-types#quota-exceeded"
_QUOTA_EXCEEDED_TITLE: Final = "Request cannot be satisfied as assigned quota has been exceeded"
_DETAILS: Final = {
    Reason.KEY_UNKNOWN: (HTTPStatus.UNAUTHORIZED, "The API key is not known."),
    Reason.KEY_REVOKED: (HTTPStatus.UNAUTHORIZED, "The API key was revoked."),
    Reason.KEY_EXPIRED: (HTTPStatus.UNAUTHORIZED, "The API key has expired."),
    Reason.KEY_SUSPENDED: (HTTPStatus.FORBIDDEN, "The API key is suspended."),
    Reason.DEGRADED_DENIED: (HTTPStatus.SERVICE_UNAVAILABLE, "The rate limit could not be checked; try again."),
}
_CODES: Final = {
    HTTPStatus.UNAUTHORIZED: Code.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: Code.PERMISSION_DENIED,
    HTTPStatus.TOO_MANY_REQUESTS: Code.RESOURCE_EXHAUSTED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Code.RESOURCE_EXHAUSTED,
    HTTPStatus.INTERNAL_SERVER_ERROR: Code.FAILED_PRECONDITION,  # a configuration that has to be corrected
    HTTPStatus.SERVICE_UNAVAILABLE: Code.UNAVAILABLE,
}


class Denial(NamedTuple):
    """A denial: the HTTP status that fits it best, its reason for programs, and one sentence for people.

    `violated` are the names of the limits that deny; None when it is not limits that do.
    """

    status: HTTPStatus
    reason: str
    detail: str
    violated: tuple[str, ...] | None = None

    @property
    def code(self) -> Code:
        """The equivalent gRPC status."""
        return _CODES[self.status]

    def problem(self) -> str:
        """The denial as a problem in JSON."""
        if self.violated is None:
            kind, title = "about:blank", self.status.phrase
        else:
            kind, title = _QUOTA_EXCEEDED, _QUOTA_EXCEEDED_TITLE
        problem: dict[str, object] = {
            "type": kind,
            "title": title,
            "status": int(self.status),
            "detail": self.detail,
            "reason": self.reason,
        }
        if self.violated is not None:
            problem["violated-policies"] = self.violated
        return json.dumps(problem)


NO_KEY: Final = Denial(HTTPStatus.UNAUTHORIZED, "KEY_MISSING", "No API key was sent.")


def denial_for(reason: Reason, limit: str, violated: tuple[str, ...], wait_seconds: int | None) -> Denial:
    """The denial for REASON by LIMIT (empty if it has no name), which allows in WAIT_SECONDS, None if never."""
    named = f' "{limit}"' if limit else ""
    if reason is Reason.OVER_LIMIT:
        again = "." if wait_seconds is None else f"; try again in {wait_seconds} s."
        return Denial(HTTPStatus.TOO_MANY_REQUESTS, reason.name, f"Over the limit{named}{again}", violated)
    if reason is Reason.COST_EXCEEDS_CAPACITY:
        detail = f"The call costs more than the limit{named} ever holds; do not try again."
        return Denial(HTTPStatus.TOO_MANY_REQUESTS, reason.name, detail, violated)
    status, detail = _DETAILS[reason]
    return Denial(status, reason.name, detail)


class RenderedDenial(NamedTuple):
    """The body of a denial, and the header that declares its format."""

    header: Header
    body: str


RenderDenial: TypeAlias = Callable[[Denial], RenderedDenial]


def as_problem(denial: Denial) -> RenderedDenial:
    """As a problem in JSON."""
    return RenderedDenial(("content-type", PROBLEM_TYPE), denial.problem())


def as_status(denial: Denial) -> RenderedDenial:
    """As a gRPC status. Envoy makes its message of the body, and by itself would make UNAVAILABLE of a 429."""
    return RenderedDenial(("grpc-status", str(int(denial.code))), denial.detail)


def renderer_for(content_type: str) -> RenderDenial:
    """The format for a client that sent a request of this content type."""
    is_grpc = content_type == _GRPC_TYPE or content_type.startswith((_GRPC_TYPE + "+", _GRPC_TYPE + ";"))
    return as_status if is_grpc else as_problem
