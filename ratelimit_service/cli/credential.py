"""Whose call it is, from what was typed: the secret API key, or the key's public id."""

import re
import sys
from typing import Annotated

import typer

from ratelimit_service.cli.fault import Fault

_KEY_ID = re.compile(r"[0-9A-Za-z]{16}")

ApiKey = Annotated[
    str | None,
    typer.Argument(
        envvar="RATELIMIT_API_KEY",
        metavar="KEY",
        help="The API key, or - to read it from standard input. Its key_id will do where the token allows that.",
    ),
]


def parse_credential(typed: str | None) -> dict[str, str]:
    """The field of the request that it belongs in, with its value. Raises Fault if nothing was typed."""
    if typed is None:
        raise Fault.usage("name the key: give it as KEY or in RATELIMIT_API_KEY, or - to read it from standard input")
    text = sys.stdin.readline().strip() if typed == "-" else typed
    return {"key_id" if _KEY_ID.fullmatch(text) else "api_key": text}
