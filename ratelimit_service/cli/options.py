"""The options that several commands share."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from ratelimit_service.cli.errors import CommandError
from ratelimit_service.cli.output import Format
from ratelimit_service.cli.times import parse_duration, parse_past_time, parse_time

_SERVER_HELP = (
    "The server to call: HOST:PORT on this machine, https://HOST:PORT with TLS, plaintext://HOST:PORT to send tokens "
    "and keys unencrypted. Default: the one that `dev` started here, otherwise localhost:50051."
)
Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        envvar=["RATELIMIT_ADMIN_SERVER", "RATELIMIT_SERVER"],
        metavar="HOST:PORT",
        help=f"{_SERVER_HELP} RATELIMIT_ADMIN_SERVER is for servers with RATELIMIT_ADMIN_LISTEN.",
    ),
]
DecisionServer = Annotated[
    str | None, typer.Option("--server", envvar="RATELIMIT_SERVER", metavar="HOST:PORT", help=_SERVER_HELP)
]
"""Where decisions are requested, which may be another address than that of the admin methods."""
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="RATELIMIT_TOKEN",
        metavar="TOKEN",
        help="Bearer token to send, or @FILE to read it from a file: other users see command lines. Default: that of "
        "the server that `dev` started here.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Output = Annotated[
    Format, typer.Option("--output", help="How to print it: for people, or as JSON or YAML for scripts.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Have the server check the change and show its result; change nothing.")
]
PageSize = Annotated[int, typer.Option("--page-size", min=0, max=1000, help="Maximum number of results. 0 means 100.")]
PageToken = Annotated[str, typer.Option("--page-token", metavar="TOKEN", help="Continue after an earlier page.")]
Expires = Annotated[
    str | None,
    typer.Option("--expires", metavar="WHEN", help="A time as 2027-01-31T12:00:00Z, or from now on: 30d, 12h."),
]


def output_format(output: Format, *, as_json: bool) -> Format:
    """The format that --output and --json name together. Raises CommandError if they contradict each other."""
    if as_json and output is Format.YAML:
        raise CommandError.usage("--json and --output yaml contradict each other; give one of them")
    return Format.JSON if as_json else output


def parse_expires(value: str) -> Timestamp:
    """The time that --expires names. Raises CommandError if it is not a time."""
    return parse_option_time("--expires", value)


def parse_option_time(option: str, value: str, *, past: bool = False) -> Timestamp:
    """The time that OPTION names; a duration is from now on, or ago if PAST. Raises CommandError for another text."""
    try:
        return (parse_past_time if past else parse_time)(value, datetime.now(UTC))
    except ValueError as error:
        raise CommandError.usage(f"{option}: {error}") from None


def parse_hold(value: str) -> Duration:
    """The duration that --hold names. Raises CommandError if it is not one."""
    try:
        return parse_duration(value)
    except ValueError as error:
        raise CommandError.usage(f"--hold: {error}") from None


def parse_labels(values: Sequence[str]) -> dict[str, str]:
    """The labels that --label options name. Raises CommandError for one without `=`."""
    labels = dict(value.partition("=")[::2] for value in values)
    wrong = next((value for value in values if "=" not in value), None)
    if wrong is not None:
        raise CommandError.usage(f"--label: {wrong!r} is not a label; write name=value")
    return labels
