"""The processes of the transport grpcio: workers that serve all of the server's plane, on the same ports."""

import asyncio

from ratelimit_service.bootstrap import DecisionPlane
from ratelimit_service.operations.heartbeat import Heartbeat
from ratelimit_service.server.child import SupervisorLink
from ratelimit_service.server.grpc_process import announce, run_server
from ratelimit_service.settings import Settings
from ratelimit_service.transport.grpcio.server import GrpcServer


def main() -> None:
    """Run the process until SIGTERM, or until the parent, whose id is the first argument, ends."""
    run_server(serve)


async def serve(
    planes: DecisionPlane, server: GrpcServer, settings: Settings, supervisor: SupervisorLink, stop: asyncio.Event
) -> None:
    """Serve until SIGTERM, then drain."""
    if settings.decides:
        planes.join()
    heartbeat = Heartbeat(planes.degraded.current)
    heartbeat.start()
    announcing = asyncio.create_task(announce(server, supervisor))
    supervisor.report_ready()
    await stop.wait()
    announcing.cancel()
    heartbeat.stop()
    supervisor.rest()
    await server.drain(settings.drain_timeout)
