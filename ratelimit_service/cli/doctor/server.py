"""What a server that runs reports of itself."""

from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from typing import Final

from ratelimit_service.cli.doctor.findings import Finding
from ratelimit_service.cli.target import dialable
from ratelimit_service.settings import Settings

_SECONDS: Final = 2.0
_MAX_BYTES: Final = 10_000


def check_server(settings: Settings) -> Iterator[Finding]:
    """Whether the server on the operations port decides as it should. Nothing, if there is none or another program."""
    text = _ready(settings.operations_listen)
    if text == "ready":
        yield Finding.ok("server", "runs, and decides as it should")
    elif text.startswith("degraded: "):
        yield Finding.warning("server", text)
    elif text.startswith("not ready: "):
        yield Finding.error("server", f"{text}; see its log")


def _ready(listen: str) -> str:
    """The response to /readyz, empty if there is none."""
    if not listen:
        return ""
    try:
        with closing(HTTPConnection(dialable(listen), timeout=_SECONDS)) as connection:
            connection.request("GET", "/readyz")
            return connection.getresponse().read(_MAX_BYTES).decode(errors="replace").strip()
    except (OSError, HTTPException, ValueError):
        return ""
