"""The option that says when something ends."""

from datetime import datetime
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from ratelimit_service.cli.fault import Fault
from ratelimit_service.cli.moments import parse_moment

Expires = Annotated[
    str | None,
    typer.Option("--expires", metavar="WHEN", help="A time as 2027-01-31T12:00:00Z, or from now on: 30d, 12h."),
]


def parse_expiry(typed: str, now: datetime) -> Timestamp:
    """The moment that was typed. Raises Fault in words if it is none."""
    try:
        return parse_moment(typed, now)
    except ValueError as error:
        raise Fault.usage(f"--expires: {error}") from None
