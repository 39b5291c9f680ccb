"""How a command fails: an exit code, and a line or two on standard error."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import grpc
import typer
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from ratelimit_service.cli.escaped import escaped


class Exit(IntEnum):
    """0 means done, and for `check` allowed."""

    NO = 1
    """`check`: denied. `doctor`: something is wrong. The command itself worked."""
    USAGE = 2
    """The command line, a file or a setting is invalid; also what the server calls INVALID_ARGUMENT."""
    REFUSED = 3
    """The server refused: a bad token, not found, a conflict."""
    FAILED = 4
    """The server or a store could not be reached, or failed. Retrying may help."""


_USAGE = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}
_FAILED = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}
_CONFIRMATION = "CONFIRMATION_REQUIRED"
_DETAILS = "grpc-status-details-bin"


class CommandError(Exception):
    """Ends the command with this exit code and these lines on standard error."""

    def __init__(self, exit_code: Exit, *lines: str) -> None:
        super().__init__(*lines)
        self.exit_code = exit_code
        self.lines = lines

    @classmethod
    def usage(cls, line: str) -> "CommandError":
        """A value on the command line, in a file or in a setting is invalid."""
        return cls(Exit.USAGE, line)

    @classmethod
    def of_call(cls, error: grpc.RpcError, address: str) -> "CommandError":
        """The error that the server at ADDRESS returned, or that it did not respond."""
        code: grpc.StatusCode = error.code()
        status = _status(error)
        if code in _FAILED and status is None:
            return cls(Exit.FAILED, *_unreachable(code, address, error.details() or ""))
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
            lines = ["This change has to be confirmed:", *effects, info.metadata["usage"]]
            return ConfirmationNeeded(info.metadata["confirmation"], *filter(None, lines))
        messages = fields or [error.details() or "no message"]
        exit_code = Exit.USAGE if code in _USAGE else Exit.FAILED if code in _FAILED else Exit.REFUSED
        return cls(exit_code, *messages, f"({code.name}{reason}, from {address})")


class ConfirmationNeeded(CommandError):
    """The server makes the change once it is confirmed, by `confirmation`. The lines say what it would do."""

    def __init__(self, confirmation: str, *lines: str) -> None:
        super().__init__(Exit.REFUSED, *lines)
        self.confirmation = confirmation


@contextmanager
def report_errors() -> Iterator[None]:
    """Turn a CommandError into its lines on standard error and its exit code."""
    try:
        yield
    except CommandError as error:
        for line in error.lines:
            typer.echo(escaped(line), err=True)
        raise typer.Exit(error.exit_code) from None


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
            "start one with `ratelimit-service dev`, or name another with --server or RATELIMIT_SERVER",
        )
    return (f"{address} failed: {code.name} {details}",)
