"""What is behind the transport envoy, a process on a unix socket: the control plane, health and reflection.

With RATELIMIT_PLANE=decision it has health and reflection alone. It is behind the HTTP port too, with either transport:
then it decides calls, apart from the workers.
"""

import asyncio
from typing import Final

from ratelimit_service.bootstrap import DecisionPlane
from ratelimit_service.server.child import SupervisorLink
from ratelimit_service.server.grpc_process import announce, run_server
from ratelimit_service.settings import Settings
from ratelimit_service.transport.grpcio.server import GrpcServer

_LAST_CALLS: Final = 1.0
"""Seconds that calls under way get: those of management are short, and health watches continue at the successor."""


def main() -> None:
    """Run the process until SIGTERM, or until the parent, whose id is the first argument, ends."""
    run_server(serve, behind_envoy=True)


async def serve(
    planes: DecisionPlane, server: GrpcServer, settings: Settings, supervisor: SupervisorLink, stop: asyncio.Event
) -> None:
    """Serve until SIGTERM. Announces a drain when the supervisor does, not when this process alone ends."""
    announcing = asyncio.create_task(announce(server, supervisor))
    if settings.http_listen and settings.decides:
        planes.join()
    supervisor.report_ready()
    await stop.wait()
    announcing.cancel()
    supervisor.rest()
    await server.close(min(settings.drain_timeout, _LAST_CALLS))
