"""What the processes that serve by `grpc.aio` have in common."""

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from ratelimit_service.bootstrap import Planes, open_planes
from ratelimit_service.errors import StartupFault
from ratelimit_service.logs import set_up_logging
from ratelimit_service.server.child import Report, die_with
from ratelimit_service.settings import Settings
from ratelimit_service.transport.grpcio.server import GrpcServer

_YOUNG: Final = 50_000
"""Objects made and not freed that set off a look at the young ones: well above what a full load of calls holds."""


def settle_collector() -> None:
    """Have the collector look less often, and not at all at what is there now. Call it when everything is open.

    Calls leave no cycles behind, so their objects go by reference counts. With Python's own threshold of 700 the
    collector would go through all calls in flight several hundred times a second, and find nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 50)


Live: TypeAlias = Callable[[Planes, GrpcServer, Settings, Report, asyncio.Event], Awaitable[None]]
"""What a process does once its server is open: says so, waits for the event (SIGTERM), and ends the server."""


def run_server(live: Live) -> None:
    """Be a process with one server, until LIVE returns or the parent, whose id is the first argument, ends."""
    die_with(int(sys.argv[1]))
    settings = Settings()
    set_up_logging(settings.log_level, settings.log_format)
    report = Report()
    try:
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(_serve(live, settings, report))
    except StartupFault as fault:
        report.fault(str(fault))
        raise SystemExit(1) from None


async def _serve(live: Live, settings: Settings, report: Report) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with open_planes(settings) as planes:
        server = GrpcServer(settings, planes)
        await server.start()
        settle_collector()
        await live(planes, server, settings, report, stop)


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415 not on every platform

    return uvloop.new_event_loop()
