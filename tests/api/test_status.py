"""Errors as statuses."""

from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from structlog.testing import capture_logs

from ratelimit_service import errors
from ratelimit_service._gen.ratelimit.v1 import errors_pb2
from ratelimit_service.api.status import DETAILS_KEY, DOMAIN, to_metadata, to_service_error, to_status
from ratelimit_service.transport.grpcio.interceptors import STATUS_CODES

ALL = (
    errors.InvalidArgument.of("cost", "is 7; it must be less"),
    errors.Unauthenticated("no token", reason="TOKEN_MISSING"),
    errors.PermissionDenied("no", reason="ROLE_INSUFFICIENT", metadata={"role": "viewer", "needed": "admin"}),
    errors.NotFound("no such key", reason="KEY_NOT_FOUND", metadata={"key_id": "abc"}),
    errors.AlreadyExists("taken", reason="PLAN_EXISTS", metadata={"plan": "free"}),
    errors.FailedPrecondition("in use", reason="PLAN_IN_USE", metadata={"plan": "free", "keys": "2"}),
    errors.Aborted("keys/abc", etag="a", current_etag="b"),
    errors.ResourceExhausted("too large", reason="MESSAGE_TOO_LARGE", metadata={"size": "9", "limit": "8"}),
    errors.DeadlineExceeded("too late"),
    errors.Unimplemented("no such method", reason="NOT_SERVED", metadata={"method": "/a/B"}),
    errors.Unavailable("down", reason="POLICY_STORE_UNAVAILABLE", retry_after=1.5),
    errors.Internal("0123"),
)


def detail(status: status_pb2.Status, message: type) -> object:
    """The detail of this type, or None."""
    for packed in status.details:
        found = message()
        if packed.Unpack(found):
            return found
    return None


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
def test_every_status_has_code_and_reason(error: errors.ServiceError) -> None:
    """The status has the error's code and message, and an ErrorInfo with a reason of the proto's list."""
    status = to_status(error)
    assert status.code == error.code
    assert status.message == error.message
    info = detail(status, error_details_pb2.ErrorInfo)
    assert info.domain == DOMAIN
    assert info.reason == error.reason
    assert info.reason in errors_pb2.ErrorReason.keys()  # noqa: SIM118 it is no dict
    assert dict(info.metadata) == dict(error.metadata)


def test_the_codes_are_those_of_the_library() -> None:
    """Each Code is the library's status of the same name and number."""
    for code, status in STATUS_CODES.items():
        assert status.name == code.name
        assert status.value[0] == code
    assert set(STATUS_CODES.values()) <= set(grpc.StatusCode)


def test_an_invalid_argument_names_each_field() -> None:
    """BadRequest lists the invalid fields with what is wrong."""
    error = errors.InvalidArgument(errors.FieldViolation("a.b", "is empty"), errors.FieldViolation("c", "is 3"))
    bad = detail(to_status(error), error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad.field_violations] == [("a.b", "is empty"), ("c", "is 3")]


def test_an_etag_mismatch_names_its_object() -> None:
    """PreconditionFailure names the object with that etag."""
    failure = detail(
        to_status(errors.Aborted("plans/free", etag="a", current_etag="b")), error_details_pb2.PreconditionFailure
    )
    assert [(v.type, v.subject) for v in failure.violations] == [("ETAG", "plans/free")]


def test_unavailable_has_a_retry_delay() -> None:
    """RetryInfo has the delay, exact."""
    retry = detail(to_status(errors.Unavailable("x", reason="DRAINING", retry_after=1.5)), error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMicroseconds() == 1_500_000


def test_the_trailer_is_the_status() -> None:
    """The one trailer is the serialized status under the name that every library knows."""
    ((key, value),) = to_metadata(ALL[0])
    assert key == DETAILS_KEY
    assert status_pb2.Status.FromString(value) == to_status(ALL[0])


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidArgument(*[errors.FieldViolation("f" * 5000, "d" * 5000) for _ in range(300)]),
        errors.Aborted("keys/abc", etag="e" * 60_000, current_etag="e" * 16),
        errors.Unimplemented("m" * 60_000, reason="NOT_SERVED", metadata={"method": "m" * 60_000}),
    ],
    ids=lambda error: type(error).__name__,
)
def test_trailers_stay_small_enough_for_clients(error: errors.ServiceError) -> None:
    """However long what a caller sent, message and details together stay below the 8 KiB that clients accept."""
    ((_, value),) = to_metadata(error)
    assert len(value) * 4 / 3 + len(to_status(error).message) < 8_000


def test_an_internal_error_is_reported_by_incident_only() -> None:
    """The caller gets an id, and the log has the cause under the same id."""
    cause = ZeroDivisionError("secret detail")
    with capture_logs() as logged:
        error = to_service_error(cause, "/a/B")
    assert isinstance(error, errors.Internal)
    assert "secret detail" not in error.message
    assert [(line["incident"], line["exc_info"]) for line in logged] == [(error.metadata["incident"], cause)]


def test_a_known_error_stays_what_it_is() -> None:
    """An error that is made for callers is passed on as it is."""
    assert to_service_error(ALL[3], "/a/B") is ALL[3]


def test_the_proto_lists_every_reason_that_the_code_uses() -> None:
    """No reason in the code, pages of the console apart, is missing in ratelimit.v1.ErrorReason."""
    used = set()
    for file in (Path(errors.__file__).parent).rglob("*.py"):
        if not {"_gen", "console"} & set(file.parts):
            used |= {part.split('"')[1] for part in file.read_text().split("reason=")[1:] if part.startswith('"')}
    assert used - {"WITHIN_LIMIT"} <= set(errors_pb2.ErrorReason.keys())
    assert {"INVALID_FIELD", "TOKEN_MISSING", "NOT_SERVED"} <= used


def test_sixteen_invalid_fields_are_named() -> None:
    """An error names up to 16 invalid fields, each with its path in full and what is wrong with it."""
    violations = [errors.FieldViolation(f"create.limits[{n}].token_bucket.capacity", f"is {n}") for n in range(20)]
    bad = detail(to_status(errors.InvalidArgument(*violations)), error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad.field_violations] == [
        (v.field, v.description) for v in violations[:16]
    ]
