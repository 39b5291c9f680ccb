"""What a server answers to a call that fails, as a CommandError."""

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from ratelimit_service.cli.errors import CommandError, ConfirmationNeeded, Exit, NotFound
from ratelimit_service.cli.target import is_on_this_machine

_USAGE = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}
_FAILED = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}
_CONFIRMATION = "CONFIRMATION_REQUIRED"
_DETAILS = "grpc-status-details-bin"


def call_error(error: grpc.RpcError, address: str) -> CommandError:
    """The error that the server at ADDRESS returned, or that it did not respond."""
    code: grpc.StatusCode = error.code()
    status = _status(error)
    if code in _FAILED and status is None:
        return CommandError(Exit.FAILED, *_unreachable(code, address, error.details() or ""))
    fields: list[str] = []
    reason, info = "", error_details_pb2.ErrorInfo()
    effects: list[str] = []
    for detail in status.details if status else ():
        bad, failure = error_details_pb2.BadRequest(), error_details_pb2.PreconditionFailure()
        if detail.Unpack(bad):
            fields += [f"{violation.field}: {violation.description}" for violation in bad.field_violations]
        elif detail.Unpack(info):
            reason = f" {info.reason}"
        elif detail.Unpack(failure):
            effects += [f"{violation.subject}: {violation.description}" for violation in failure.violations]
    if info.reason == _CONFIRMATION:
        return ConfirmationNeeded(info.metadata["confirmation"], effects, info.metadata["usage"])
    messages = fields or [error.details() or "no message"]
    exit_code = Exit.USAGE if code in _USAGE else Exit.FAILED if code in _FAILED else Exit.REFUSED
    kind = NotFound if code is grpc.StatusCode.NOT_FOUND else CommandError
    return kind(exit_code, *messages, f"({code.name}{reason}, from {address})")


def _status(error: grpc.RpcError) -> status_pb2.Status | None:
    packed = {entry.key: entry.value for entry in error.trailing_metadata() or ()}.get(_DETAILS)
    if packed is None:
        return None
    try:
        return status_pb2.Status.FromString(packed)
    except DecodeError:
        return None


def _unreachable(code: grpc.StatusCode, address: str, details: str) -> tuple[str, ...]:
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return (f"{address} did not respond in time; is it a ratelimit-service?",)
    if code is grpc.StatusCode.UNAVAILABLE:
        return (
            f"cannot reach a server at {address}: {details.splitlines()[0] if details else 'no reason given'}",
            "start one with `ratelimit-service dev`, or name another with --server or RATELIMIT_SERVER"
            if is_on_this_machine(address)
            else "see that it runs, that this machine may connect, and whether it serves TLS (then write https://); "
            "`ratelimit-service doctor --server HOST:9464` examines it by its operations port",
        )
    return (f"{address} failed: {code.name} {details}",)
