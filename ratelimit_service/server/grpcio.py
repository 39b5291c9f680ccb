"""The processes of the transport grpcio: workers that serve everything, all on the public port.

A worker runs as `python -m ratelimit_service.server.grpcio PARENT_PID`.
"""

import asyncio
import os

from ratelimit_service.bootstrap import Planes
from ratelimit_service.server.child import Child, Report, start
from ratelimit_service.server.runtime import Runtime
from ratelimit_service.server.serving import run_server
from ratelimit_service.server.supervisor import Slot, Supervisor
from ratelimit_service.settings import Settings
from ratelimit_service.transport.grpcio.server import GrpcServer


class GrpcioChild:
    """It serves when it says so, and drains by itself when it is told to end."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.name = child.name
        self.pid = child.pid
        self.ended = child.ended
        self.kill = child.kill
        self.announce_drain = child.request_drain

    async def ready(self, within: float) -> None:
        """Wait until it serves. Raises StartupFault if it does not within so many seconds."""
        await self._child.ready(within)

    async def drain(self, within: float) -> None:
        """Have it send its callers elsewhere and end; its calls get at most WITHIN seconds."""
        await self._child.stop(within)


_WORKER = "ratelimit_service.server.grpcio"


def grpcio_supervisor(runtime: Runtime) -> Supervisor:
    """The supervisor of `settings.workers` workers."""

    def slot(name: str) -> Slot:
        async def start_worker() -> GrpcioChild:
            environment = runtime.environment(listen=runtime.lock.address)
            return GrpcioChild(await start(name, _WORKER, [str(os.getpid())], environment))

        return Slot(start_worker, runtime.on_exit)

    return Supervisor(front=[slot(f"worker {n}") for n in range(1, runtime.settings.workers + 1)], back=[])


async def live(planes: Planes, server: GrpcServer, settings: Settings, report: Report, stop: asyncio.Event) -> None:
    """Serve until SIGTERM, then drain."""
    planes.join()
    report.ready()
    await stop.wait()
    await server.drain(settings.drain_timeout)


if __name__ == "__main__":
    run_server(live)
