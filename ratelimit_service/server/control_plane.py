"""The control plane behind the transport envoy, a process on a unix socket.

It runs as `python -m ratelimit_service.server.control_plane PARENT_PID`.
"""

import asyncio
import itertools
import os
from pathlib import Path
from typing import Final

from ratelimit_service.bootstrap import Planes
from ratelimit_service.server.child import Child, Report, start
from ratelimit_service.server.grpcio import GrpcioChild
from ratelimit_service.server.runtime import Runtime
from ratelimit_service.server.serving import run_server
from ratelimit_service.settings import Settings
from ratelimit_service.transport.grpcio.server import GrpcServer

_MODULE = "ratelimit_service.server.control_plane"


class ControlPlane:
    """Starts control planes. `socket` always leads to the newest one that serves."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._numbers = itertools.count(1)
        self.socket = runtime.folder / "control.sock"

    async def start(self) -> GrpcioChild:
        """Start one, on a socket of its own: one that ends takes its socket with it."""
        own = self._runtime.folder / f"control-{next(self._numbers)}.sock"
        # In clear text: the socket is ours, and TLS ends at Envoy.
        environment = self._runtime.environment(
            listen=f"unix:{own}", tls_certificate=None, tls_key=None, tls_client_ca=None
        )
        child = await start("control plane", _MODULE, [str(os.getpid())], environment)
        return _Leading(child, self.socket, own)


class _Leading(GrpcioChild):
    """A control plane that `socket` is made to lead to once it serves."""

    def __init__(self, child: Child, socket: Path, own: Path) -> None:
        super().__init__(child)
        self._socket = socket
        self._own = own

    async def ready(self, within: float) -> None:
        """Wait until it serves, then let new connections come to it. Raises StartupFault."""
        await super().ready(within)
        link = self._own.with_suffix(".link")
        link.symlink_to(self._own)
        link.replace(self._socket)


_LAST_CALLS: Final = 1.0
"""Seconds that calls under way get: those of management are short, and who watches watches on at the successor."""


async def live(_planes: Planes, server: GrpcServer, settings: Settings, report: Report, stop: asyncio.Event) -> None:
    """Serve until SIGTERM. Says that the server drains when the supervisor says so, not when only this process goes."""
    draining = asyncio.Event()
    report.on_drain(asyncio.get_running_loop(), draining.set)
    announcing = asyncio.create_task(_announce(server, draining))
    report.ready()
    await stop.wait()
    announcing.cancel()
    await server.close(min(settings.drain_timeout, _LAST_CALLS))


async def _announce(server: GrpcServer, draining: asyncio.Event) -> None:
    await draining.wait()
    await server.announce_drain()


if __name__ == "__main__":
    run_server(live)
