"""A server of the grpcio transport as a process of its own: prints its port, and drains on SIGTERM."""

import asyncio
import signal

from ratelimit_service.bootstrap import open_planes
from ratelimit_service.settings import Settings
from ratelimit_service.transport.grpcio.server import GrpcServer


async def main() -> None:
    """Serve until SIGTERM."""
    settings = Settings(protect_checks=False)  # as a server decides it for loopback
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with open_planes(settings, needs_token=False) as planes:
        server = GrpcServer(settings, planes, planes.key_admin)
        await server.start()
        print(server.port, flush=True)  # noqa: T201 the test reads it
        await ended.wait()
        await server.drain(settings.drain_timeout)


if __name__ == "__main__":
    asyncio.run(main())
