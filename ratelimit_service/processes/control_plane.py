"""The control plane behind the door envoy.

Run as `python -m ratelimit_service.processes.control_plane PARENT_PID`.
"""

import asyncio
from typing import Final

from ratelimit_service.bootstrap import Planes
from ratelimit_service.doors.grpcio.server import GrpcServer
from ratelimit_service.processes.report import Report
from ratelimit_service.processes.serving import run_server
from ratelimit_service.settings import Settings

_LAST_CALLS: Final = 1.0
"""Seconds that calls under way get: those of management are short, and who watches watches on at the successor."""


async def live(_planes: Planes, server: GrpcServer, settings: Settings, report: Report, told: asyncio.Event) -> None:
    """Serve until SIGTERM. Says that the server drains when the supervisor says so, not when only this process goes."""
    draining = asyncio.Event()
    report.on_leave(asyncio.get_running_loop(), draining.set)
    announcing = asyncio.create_task(_announce(server, draining))
    report.ready()
    await told.wait()
    announcing.cancel()
    await server.close(min(settings.drain_timeout, _LAST_CALLS))


async def _announce(server: GrpcServer, draining: asyncio.Event) -> None:
    await draining.wait()
    await server.announce_drain()


if __name__ == "__main__":
    run_server(live)
