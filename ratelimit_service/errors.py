"""The errors of the service.

ServiceError            an error of a call: each subclass has its gRPC status code, and each error a reason
StartupError            the server cannot start
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Final

MAX_VIOLATIONS: Final = 16
"""Maximum invalid fields that one error names: it travels in trailers, which clients limit to a few kilobytes."""


class Code(IntEnum):
    """The canonical gRPC status codes that the service returns."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """An invalid field: its path in the request (`plan.limits[2].token_bucket.capacity`) and what is wrong with it."""

    field: str
    description: str


class ServiceError(Exception):
    """An error to return to the caller."""

    code: ClassVar[Code]

    def __init__(self, message: str, *, reason: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata: Mapping[str, str] = metadata or {}


class InvalidArgument(ServiceError):
    """A field is missing, malformed or out of bounds."""

    code = Code.INVALID_ARGUMENT

    def __init__(self, *violations: FieldViolation) -> None:
        """Of VIOLATIONS, the first MAX_VIOLATIONS are kept."""
        self.violations = violations[:MAX_VIOLATIONS]
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations), reason="INVALID_FIELD")

    @classmethod
    def of(cls, field: str, description: str) -> "InvalidArgument":
        """The error for a single field."""
        return cls(FieldViolation(field, description))

    def under(self, prefix: str) -> "InvalidArgument":
        """The same error as seen from the message that contains the field: `capacity` under `limits[0]`."""
        return InvalidArgument(*(FieldViolation(f"{prefix}.{v.field}", v.description) for v in self.violations))


class Unauthenticated(ServiceError):
    """No token, or an invalid one."""

    code = Code.UNAUTHENTICATED


class PermissionDenied(ServiceError):
    """The token's role does not allow the call."""

    code = Code.PERMISSION_DENIED


class NotFound(ServiceError):
    """No such key, plan or override."""

    code = Code.NOT_FOUND


class AlreadyExists(ServiceError):
    """The name is in use."""

    code = Code.ALREADY_EXISTS


class FailedPrecondition(ServiceError):
    """The call is not possible in the current state."""

    code = Code.FAILED_PRECONDITION


class Aborted(ServiceError):
    """Modified concurrently: the etag of `subject` (`keys/<id>`, `plans/<name>`) is no longer the one sent."""

    code = Code.ABORTED

    def __init__(self, subject: str, *, etag: str, current_etag: str) -> None:
        super().__init__(
            f"{subject} has changed: its etag is {current_etag!r}, not {etag!r}; read it again, then repeat",
            reason="ETAG_MISMATCH",
            metadata={"etag": etag, "current_etag": current_etag},
        )
        self.subject = subject


class ResourceExhausted(ServiceError):
    """The message is too large."""

    code = Code.RESOURCE_EXHAUSTED


class DeadlineExceeded(ServiceError):
    """The deadline has passed or cannot be met. Nothing was charged."""

    code = Code.DEADLINE_EXCEEDED

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="DEADLINE_TOO_SHORT")


class Unimplemented(ServiceError):
    """No such method or encoding."""

    code = Code.UNIMPLEMENTED


class Unavailable(ServiceError):
    """A store is unavailable, or the server is draining. Retry after `retry_after` seconds."""

    code = Code.UNAVAILABLE

    def __init__(self, message: str, *, reason: str, retry_after: float = 1.0) -> None:
        super().__init__(message, reason=reason)
        self.retry_after = retry_after


class Overloaded(Unavailable):
    """The server has more calls than it can decide in time. The call was refused before anything was read or charged.

    The clients do not retry it, and a gateway's own failure mode decides.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message, reason="OVERLOADED", retry_after=retry_after)


class LookupDeferred(Unavailable):
    """A token or key has to be looked up, and its turn did not come in time, or a row that it needs is not valid.

    The methods that decide respond with a decision in place of it, DEGRADED_DENIED.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="TOO_MANY_AT_ONCE")


class Internal(ServiceError):
    """An internal error. `incident` is the id under which the server's log has the cause."""

    code = Code.INTERNAL

    def __init__(self, incident: str) -> None:
        super().__init__(
            f"internal error; the server's log has the cause under incident {incident}",
            reason="INTERNAL_FAULT",
            metadata={"incident": incident},
        )


class StartupError(Exception):
    """The server cannot start. The message states the problem and the remedy, and contains no secret."""


def release(error: BaseException) -> None:
    """Have ERROR, of a call that is over, and what it came from let go of the frames that they passed through.

    These hold the call and its message, and often the error again: a cycle, which would stay until the garbage
    collector finds it, and that is made to run seldom.
    """
    found: BaseException | None = error
    while found is not None:
        found.__traceback__ = None
        found = found.__cause__ or found.__context__
