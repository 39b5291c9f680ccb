"""What can go wrong with a call.

RateLimitError
├── ServiceFault     the service could not be asked. Never raised: it goes to `on_failure`
└── CallRefused      the fault of the caller or of the setup. Raised, and never failed open
    ├── InvalidCheck     a field of the check is malformed or out of bounds
    └── SetupError       the token, its role or the target is wrong
"""

import grpc

from ._details import StatusDetails

DETAILS_KEY = "grpc-status-details-bin"
"""The trailer that carries a status with its details, by the convention of every gRPC library."""

_SERVICE_FAULTS = frozenset(
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
    """A call that got no decision from the service."""

    def __init__(self, code: grpc.StatusCode, message: str, details: StatusDetails) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.reason = details.reason
        """The `reason` of the error's `google.rpc.ErrorInfo`, such as `INVALID_FIELD`. Empty when it has none."""
        self.field = details.field
        """The first field at fault, such as `cost`. Empty when no field is."""


class ServiceFault(RateLimitError):
    """The service could not be asked. Never raised: it goes to `on_failure`."""


class CallRefused(RateLimitError):
    """The fault of the caller or of the setup. Raised, and never failed open."""


class InvalidCheck(CallRefused):
    """A field of the check is malformed or out of bounds."""


class SetupError(CallRefused):
    """The token, its role or the target is wrong."""


def not_text(field: str) -> InvalidCheck:
    """The error for a FIELD whose text has no encoding in UTF-8, so that it cannot be asked about."""
    return invalid_field(field, "is not valid UTF-8")


def invalid_field(field: str, what: str) -> InvalidCheck:
    """The error for a FIELD of which WHAT is wrong, in the form of the service's own."""
    return InvalidCheck(
        grpc.StatusCode.INVALID_ARGUMENT, f"{field}: {what}", StatusDetails(reason="INVALID_FIELD", field=field)
    )


def error_of(code: grpc.StatusCode, message: str, details: bytes | None) -> RateLimitError:
    """The error that a status means. DETAILS is the value of the trailer DETAILS_KEY, None when there was none."""
    parsed = StatusDetails.parse(details)
    if code in _SERVICE_FAULTS:
        return ServiceFault(code, message, parsed)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidCheck(code, message, parsed)
    return SetupError(code, message, parsed)
