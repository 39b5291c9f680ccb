"""The error of a call that got no decision."""

import grpc

from ._error_details import ErrorDetails

DETAILS_KEY = "grpc-status-details-bin"
"""The trailer with the status details, by the convention of every gRPC library."""

OVERLOADED = "OVERLOADED"
"""The reason of an UNAVAILABLE that is not sent again."""

RESERVATION_NOT_FOUND = "RESERVATION_NOT_FOUND"
"""The reason of a NOT_FOUND for a reservation: its hold has ended, or the service has lost it."""

_FAILURE_CODES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.CANCELLED,
    }
)


class RateLimitError(Exception):
    """An error that the service responded with, or the reason why there is no response."""

    code: grpc.StatusCode
    """The gRPC status code."""
    message: str
    """What is wrong, with which value, and what to do. For people."""
    reason: str
    """The name of a `ratelimit.v1.ErrorReason`, such as `INVALID_FIELD`. Empty when there is none."""
    field: str
    """The first invalid field, such as `cost`. Empty when there is none."""

    def __init__(self, code: grpc.StatusCode, message: str, reason: str = "", field: str = "") -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.reason = reason
        self.field = field


def is_failure(error: RateLimitError) -> bool:
    """Whether the service failed. Any other error is for the caller or the owner of the client to fix.

    Those never fail open: a caller who finds out how to cause one could bypass the limits.
    """
    return error.code in _FAILURE_CODES


def client_is_closed() -> RateLimitError:
    """The error of a call after `close` of the client. It never fails open: to close it is a decision of its owner."""
    return RateLimitError(grpc.StatusCode.FAILED_PRECONDITION, "the client is closed")


def invalid_utf8(field: str) -> RateLimitError:
    """The error for a FIELD whose text has no encoding in UTF-8."""
    return invalid_field(field, "is not valid UTF-8")


def invalid_field(field: str, problem: str) -> RateLimitError:
    """The error for a FIELD with a PROBLEM, in the form of the service's own."""
    return RateLimitError(grpc.StatusCode.INVALID_ARGUMENT, f"{field}: {problem}", "INVALID_FIELD", field)


def error_of(code: grpc.StatusCode, message: str, details: bytes | None) -> RateLimitError:
    """The error for a gRPC status. DETAILS is the value of the trailer DETAILS_KEY, None when there was none."""
    parsed = ErrorDetails.parse(details)
    return RateLimitError(code, message, parsed.reason, parsed.field)
