"""A worker of the door grpcio.

Run as `python -m ratelimit_service.processes.grpcio_worker PARENT_PID`.
"""

import asyncio

from ratelimit_service.bootstrap import Planes
from ratelimit_service.doors.grpcio.server import GrpcServer
from ratelimit_service.processes.report import Report
from ratelimit_service.processes.serving import run_server
from ratelimit_service.settings import Settings


async def live(planes: Planes, server: GrpcServer, settings: Settings, report: Report, told: asyncio.Event) -> None:
    """Serve until SIGTERM, then drain."""
    planes.join()
    report.ready()
    await told.wait()
    await server.drain(settings.drain_timeout)


if __name__ == "__main__":
    run_server(live)
