"""The one place where an error becomes a gRPC status."""

import secrets
from typing import Final, TypeAlias

import structlog
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from ratelimit_service.decision.text import without_secrets
from ratelimit_service.errors import Aborted, Internal, InvalidArgument, ServiceError, Unavailable
from ratelimit_service.management.confirmation import ConfirmationRequired

DOMAIN: Final = "ratelimit.v1"
"""The `domain` of every ErrorInfo."""

DETAILS_KEY: Final = "grpc-status-details-bin"
"""The trailer that carries the status with its details, by the convention of every gRPC library."""

NO_RETRY_KEY: Final = "grpc-retry-pushback-ms"
"""The trailer by which a server forbids retries, with a negative value: clients retry UNAVAILABLE otherwise."""

_MAX_TEXT = 512
_MAX_PATH = 128
_MAX_DESCRIPTION = 256
_MAX_VIOLATIONS_TEXT = 4_096
"""Characters of all invalid fields of an error, so that the trailers stay below the 8 KiB that clients accept."""


_Detail: TypeAlias = error_details_pb2.BadRequest | error_details_pb2.PreconditionFailure | error_details_pb2.RetryInfo

_log = structlog.stdlib.get_logger(__name__)


def to_service_error(caught: BaseException, method: str) -> ServiceError:
    """The error to respond with: the one that was raised, or Internal for any other exception.

    The cause of the latter goes to the log, under the incident that the caller receives, and nowhere else.
    """
    if isinstance(caught, ServiceError):
        return caught
    incident = secrets.token_hex(8)
    _log.error("internal error", incident=incident, method=method, exc_info=caught)
    return Internal(incident)


def to_status(error: ServiceError) -> status_pb2.Status:
    """The status with its details: ErrorInfo always, and what else `ratelimit.v1.ErrorReason` documents."""
    status = status_pb2.Status(code=int(error.code), message=clip(error.message))
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    for key, value in error.metadata.items():
        info.metadata[key] = clip(value)
    status.details.add().Pack(info)
    detail = _detail(error)
    if detail is not None:
        status.details.add().Pack(detail)
    return status


def to_metadata(error: ServiceError) -> tuple[tuple[str, bytes], ...]:
    """The trailers that carry the status's details. The value is raw; where it travels as text it is base64."""
    return ((DETAILS_KEY, to_status(error).SerializeToString()),)


def clip(text: str, length: int = _MAX_TEXT) -> str:
    """TEXT, truncated to what a trailer has room for, and without the secrets of keys and tokens."""
    text = without_secrets(text)
    return text if len(text) <= length else text[: length - 3] + "..."


def _detail(error: ServiceError) -> _Detail | None:
    """The detail that an error has in addition to its ErrorInfo."""
    if isinstance(error, InvalidArgument):
        bad = error_details_pb2.BadRequest()
        share = _MAX_VIOLATIONS_TEXT // max(len(error.violations), 1)
        for violation in error.violations:
            path = clip(violation.field, min(_MAX_PATH, share // 2))
            description = clip(violation.description, min(_MAX_DESCRIPTION, share - len(path)))
            bad.field_violations.add(field=path, description=description)
        return bad
    if isinstance(error, Aborted):
        failure = error_details_pb2.PreconditionFailure()
        failure.violations.add(type="ETAG", subject=error.subject, description=clip(error.message))
        return failure
    if isinstance(error, ConfirmationRequired):
        failure = error_details_pb2.PreconditionFailure()
        for effect in error.effects:
            description = clip(effect, _MAX_DESCRIPTION)
            failure.violations.add(type="CONFIRMATION", subject=clip(error.target, _MAX_PATH), description=description)
        return failure
    if isinstance(error, Unavailable):
        delay = Duration()
        delay.FromMicroseconds(round(error.retry_after * 1_000_000))
        return error_details_pb2.RetryInfo(retry_delay=delay)
    return None
