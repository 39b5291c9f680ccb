"""The console alone, as a process on a port: `python process.py PORT`, with the settings in the environment."""

import asyncio
import os
import sys

import uvicorn

from ratelimit_service.bootstrap import open_planes
from ratelimit_service.clock import SystemClock
from ratelimit_service.console.app import ConsoleConfig, ConsoleServices, console_app
from ratelimit_service.settings import Settings


async def _serve(port: int) -> None:
    settings = Settings()
    async with open_planes(settings) as planes:
        services = planes.services
        app = console_app(
            ConsoleServices(
                keys=services.keys,
                plans=services.plans,
                overrides=services.overrides,
                rules=services.rules,
                audit=services.audit,
                sessions=services.sessions,
                engine=planes.engine,
                clock=SystemClock(),
            ),
            ConsoleConfig(
                environment=settings.key_environment,
                server=settings.listen,
                listen=(f"127.0.0.1:{port}",),
                hosts=("console.example",),
            ),
        )
        tls = {"ssl_certfile": os.environ.get("TLS_CERTIFICATE"), "ssl_keyfile": os.environ.get("TLS_KEY")}
        await uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", lifespan="off", **tls)).serve()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
