"""The processes of the transport grpcio: workers that serve all of the server's plane, on the same ports.

A worker runs as `python -m ratelimit_service.server.grpcio PARENT_PID`.
"""

import asyncio
import os
from typing import Final

from ratelimit_service.bootstrap import DecisionPlane
from ratelimit_service.operations.heartbeat import Heartbeat
from ratelimit_service.server.child import Child, SupervisorLink, start
from ratelimit_service.server.grpc_process import run_server
from ratelimit_service.server.instance import Instance
from ratelimit_service.server.supervisor import Slot, Supervisor
from ratelimit_service.settings import Settings
from ratelimit_service.transport.grpcio.server import GrpcServer

_MODULE: Final = "ratelimit_service.server.grpcio"


def grpcio_supervisor(instance: Instance, operations: Slot) -> Supervisor:
    """The supervisor of `settings.workers` workers, and of the operations process."""

    def slot(name: str) -> Slot:
        async def start_worker() -> Child:
            admin = "" if instance.admin_lock is None else instance.admin_lock.address
            environment = instance.environment(listen=instance.lock.address, admin_listen=admin)
            return await start(name, _MODULE, [str(os.getpid())], environment)

        return Slot(start_worker, instance.on_exit)

    return Supervisor(front=[slot(f"worker {n}") for n in range(1, instance.settings.workers + 1)], back=[operations])


async def serve(
    planes: DecisionPlane, server: GrpcServer, settings: Settings, supervisor: SupervisorLink, stop: asyncio.Event
) -> None:
    """Serve until SIGTERM, then drain."""
    if settings.decides:
        planes.join()
    heartbeat = Heartbeat(planes.degraded.current)
    heartbeat.start()
    supervisor.report_ready()
    await stop.wait()
    heartbeat.stop()
    supervisor.rest()
    await server.drain(settings.drain_timeout)


if __name__ == "__main__":
    run_server(serve)
