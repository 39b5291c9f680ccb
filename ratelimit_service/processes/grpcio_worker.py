"""A process that serves by `grpc.aio`: a worker of the door grpcio, or the control plane behind the door envoy.

Run as `python -m ratelimit_service.processes.grpcio_worker PARENT_PID`.
"""

import asyncio
import signal
import sys

from ratelimit_service.bootstrap import open_planes
from ratelimit_service.doors.grpcio.server import GrpcServer
from ratelimit_service.logs import set_up_logging
from ratelimit_service.processes.collector import settle_collector
from ratelimit_service.processes.parent import die_with
from ratelimit_service.processes.report import Report
from ratelimit_service.settings import Settings
from ratelimit_service.startup import StartupFault


async def serve(settings: Settings, report: Report) -> None:
    """Serve until SIGTERM has drained the calls."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    async with open_planes(settings) as planes:
        server = GrpcServer(settings, planes)
        await server.start()
        settle_collector()
        report.ready()
        await stopped.wait()
        await server.drain(settings.drain_timeout)


def main() -> None:
    """Live as long as the parent."""
    die_with(int(sys.argv[1]))
    settings = Settings()
    set_up_logging(settings.log_level, settings.log_format)
    report = Report()
    try:
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(serve(settings, report))
    except StartupFault as fault:
        report.fault(str(fault))
        raise SystemExit(1) from None


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415 not on every platform

    return uvloop.new_event_loop()


if __name__ == "__main__":
    main()
