"""The options that several commands share."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from ratelimit_service.cli.errors import CommandError
from ratelimit_service.cli.times import parse_time

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        envvar="RATELIMIT_SERVER",
        metavar="HOST:PORT",
        help="The server to call; https://HOST:PORT for TLS. Default: the one that `dev` started here, otherwise "
        "localhost:50051.",
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="RATELIMIT_TOKEN",
        metavar="TOKEN",
        help="Bearer token to send. Default: that of the server that `dev` started here.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
PageSize = Annotated[int, typer.Option("--page-size", min=0, max=1000, help="Maximum number of results. 0 means 100.")]
PageToken = Annotated[str, typer.Option("--page-token", metavar="TOKEN", help="Continue after an earlier page.")]
Expires = Annotated[
    str | None,
    typer.Option("--expires", metavar="WHEN", help="A time as 2027-01-31T12:00:00Z, or from now on: 30d, 12h."),
]


def parse_expires(value: str) -> Timestamp:
    """The time that --expires names. Raises CommandError if it is not a time."""
    try:
        return parse_time(value, datetime.now(UTC))
    except ValueError as error:
        raise CommandError.usage(f"--expires: {error}") from None
