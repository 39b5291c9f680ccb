"""Envoy's admin interface, on a unix socket that only this user can open."""

import asyncio
import re
import socket
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final

_CONNECTIONS: Final = "http.ingress_http.downstream_cx_active"
_CALLS: Final = "http.ingress_http.downstream_rq_active"
_PROXIED: Final = re.compile(r"cluster\.control.*\.upstream_rq_active")
_TIMEOUT: Final = 2.0


class EnvoyAdmin:
    """Queries and controls one Envoy. Every method raises OSError if Envoy does not answer."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def live(self) -> bool:
        """Whether it accepts connections."""
        status, body = await self._request("GET", "/ready")
        return status == 200 and body.strip() == "LIVE"  # noqa: PLR2004

    async def close_listeners(self) -> None:
        """Have it accept no further connections."""
        await self._request("POST", "/drain_listeners")

    async def drain_connections(self) -> None:
        """Have it close each connection gracefully with the next answer on it."""
        await self._request("POST", "/drain_listeners?graceful&skip_exit")

    async def active(self) -> tuple[int, int]:
        """How many connections it has, and how many calls that it answers itself."""
        _, body = await self._request("GET", "/stats?filter=_(cx|rq)_active$")
        counts = dict(line.split(": ", 1) for line in body.splitlines())
        proxied = sum(int(count) for name, count in counts.items() if _PROXIED.fullmatch(name))
        return int(counts[_CONNECTIONS]), int(counts[_CALLS]) - proxied

    async def _request(self, verb: str, path: str) -> tuple[int, str]:
        return await asyncio.to_thread(self._request_and_wait, verb, path)

    def _request_and_wait(self, verb: str, path: str) -> tuple[int, str]:
        connection = _UnixConnection(self._path)
        try:
            connection.request(verb, path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except HTTPException as error:
            raise OSError(f"Envoy's admin interface sent an invalid response: {error!r}") from error
        finally:
            connection.close()


class _UnixConnection(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("envoy", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
