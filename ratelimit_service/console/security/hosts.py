"""The names under which the console may be asked for.

A page of somebody else's can give its own host name our address (DNS rebinding) and then reads our answers as its own.
So a request whose `Host` is not one of ours gets no page.
"""

import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names that reach this machine alone: no other machine's page can have them."""


def host_of(address: str) -> str:
    """Return the host of `host`, `host:port` or `[v6]:port`, in lower case and without brackets."""
    if address.startswith("["):
        return address[1:].partition("]")[0].lower()
    return (address if address.count(":") > 1 else address.partition(":")[0]).lower().rstrip(".")


def parse_hosts(text: str) -> tuple[str, ...]:
    """Read RATELIMIT_CONSOLE_HOSTS: names separated by commas."""
    return tuple(host_of(part.strip()) for part in text.split(",") if part.strip())


def allowed_hosts(listen: Iterable[str], extra: Iterable[str]) -> frozenset[str]:
    """Return the loopback names, the hosts of the LISTEN addresses, and EXTRA. A wildcard address names no host."""
    hosts = {host_of(address) for address in listen if address}
    return LOOPBACK | frozenset(host for host in hosts if not _is_wildcard(host)) | frozenset(map(host_of, extra))


_HOST_HEADER: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/@?#\s]+)(?::[0-9]{0,5})?", re.IGNORECASE)


def _asked_host(header: str) -> str | None:
    """The host of a `Host` header, None if it is not one of a browser: its port must be a number."""
    return host_of(header) if _HOST_HEADER.fullmatch(header) else None


class HostCheck:
    """Refuses requests for other hosts with status 421."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] == "http":
            sent = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
            if len(sent) != 1 or _asked_host(sent[0]) not in self._hosts:
                answer = PlainTextResponse(
                    "The console is not served under this name. Add it to RATELIMIT_CONSOLE_HOSTS.\n", status_code=421
                )
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_wildcard(host: str) -> bool:
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return not host
