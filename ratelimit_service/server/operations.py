"""The operations process: serves the operations port, and does the control plane's background work, if it is here.

It runs once for each server, and has no part in calls: it needs no store to answer, and if it ends it is started again.
"""

import asyncio
import os
import platform
import signal
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

import structlog
from starlette.types import ASGIApp

from ratelimit_service.background import Background
from ratelimit_service.bootstrap import DecisionPlane, Planes, open_plane
from ratelimit_service.errors import StartupError
from ratelimit_service.metrics import DIRECTORY_VARIABLE, Scraper
from ratelimit_service.operations.app import console_app, operations_app
from ratelimit_service.operations.heartbeat import HEARTBEATS_VARIABLE, reports, serving_workers
from ratelimit_service.operations.listener import Listener
from ratelimit_service.operations.readiness import CONTROL_EFFECTS, EFFECTS, Readiness
from ratelimit_service.operations.tls import TlsFiles
from ratelimit_service.server.certificate_ends import certificate_files, first_ends
from ratelimit_service.server.child import SupervisorLink, run_child
from ratelimit_service.server.console import open_console
from ratelimit_service.server.operations_ports import Ports
from ratelimit_service.server.status import ServerStatus
from ratelimit_service.server.store_faults import describe_fault
from ratelimit_service.server.transport import Transport
from ratelimit_service.settings import Settings

_FIRST_ATTEMPT: Final = 10.0
"""Seconds that opening the stores gets before the ports are served without them."""

_PAUSE: Final = 5.0
"""Seconds before another attempt to open the stores."""

_LAST_REQUESTS: Final = 1.0
"""Seconds that requests get to end."""

_log = structlog.stdlib.get_logger(__name__)


def main() -> None:
    """Run the process until SIGTERM, or until the parent, whose id is the first argument, ends."""
    run_child(_run)


async def _run(settings: Settings, supervisor: SupervisorLink) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    process = _Process(settings)
    supervisor.on_drain(process.readiness.drain)
    control = asyncio.create_task(process.control())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((control, stopping, process.attempted), timeout=_FIRST_ATTEMPT, return_when=_FIRST)
    if not (control.done() or stop.is_set()):
        process.serve()
        supervisor.report_ready()
        await asyncio.wait((control, stopping), return_when=_FIRST)
    supervisor.rest()
    await process.close()
    control.cancel()
    stopping.cancel()
    with suppress(asyncio.CancelledError):
        await control  # raises what ended it, if it was not this


_FIRST: Final = asyncio.FIRST_COMPLETED


class _Process:
    """What one operations process serves and does."""

    def __init__(self, settings: Settings) -> None:
        ports = Ports.inherited()
        heartbeats = Path(os.environ[HEARTBEATS_VARIABLE])
        workers = partial(serving_workers, heartbeats)
        self._settings = settings
        self._workers = workers
        effects = EFFECTS if settings.decides else CONTROL_EFFECTS
        self.readiness = Readiness(
            partial(reports, heartbeats), settings.workers, effects, partial(describe_fault, settings)
        )
        self._scraper = Scraper(
            Path(os.environ[DIRECTORY_VARIABLE]),
            workers,
            configured=settings.workers,
            stores=self.readiness.answering,
            certificates=partial(first_ends, certificate_files(settings)),
            build={
                "version": version("ratelimit-service"),
                "python": platform.python_version(),
                "transport": Transport.choose(settings).name,
            },
        )
        self._status = ServerStatus(settings, self.readiness)
        self.attempted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the stores were opened, or could not be."""
        tls = None
        if settings.tls_certificate is not None and settings.tls_key is not None:
            tls = TlsFiles(settings.tls_certificate, settings.tls_key)
        self._operations = None if ports.operations is None else Listener(ports.operations, tls)
        self._console = None if ports.console is None else Listener(ports.console, tls)
        self._mount(None)

    async def control(self) -> None:
        """Open the stores, trying again as long as they cannot be opened, and do the work that needs them.

        Runs until cancelled. The ports are served meanwhile: metrics and health are needed most when stores fail.
        """
        while True:
            try:
                async with open_plane(self._settings) as planes:
                    await self._work(planes)
            except StartupError as error:
                _log.warning("operations work not started; trying again", error=str(error), pause=_PAUSE)
            self._attempted()
            await asyncio.sleep(_PAUSE)

    def serve(self) -> None:
        """Begin to accept connections."""
        for listener in self._listeners():
            listener.start()

    async def close(self) -> None:
        """Accept no more, and end requests."""
        await asyncio.gather(*(listener.close(_LAST_REQUESTS) for listener in self._listeners()))

    async def _work(self, planes: DecisionPlane) -> None:
        self.readiness.reasons = planes.enforcement.reasons
        await self.readiness.probe(planes.probes)
        self._status.planes = planes
        background = Background()
        background.start("readiness", partial(self.readiness.watch, planes.probes))
        if isinstance(planes, Planes):
            self._mount(self._open_console(planes))
            for name, work in planes.control:
                background.start(name, work)
        self._attempted()
        try:
            await asyncio.Event().wait()
        finally:
            self._status.planes = None
            await background.close()

    def _open_console(self, planes: Planes) -> ASGIApp | None:
        return open_console(
            planes,
            self._settings,
            faults=self.readiness.faults,
            degraded=self.readiness.degraded,
            scrape=self._scraper.text,
            workers=self._workers,
        )

    def _attempted(self) -> None:
        if not self.attempted.done():
            self.attempted.set_result(None)

    def _mount(self, console: ASGIApp | None) -> None:
        """Serve CONSOLE on its port: its own if it has one, else the operations port."""
        if self._operations is not None:
            shared = console if self._console is None else None
            self._operations.app = operations_app(
                self._scraper.text,
                self.readiness,
                self._status.report,
                console=shared,
                console_needs_tls=not self._operations.loopback,
            )
        if self._console is not None:
            self._console.app = console_app(console, needs_tls=not self._console.loopback)

    def _listeners(self) -> list[Listener]:
        return [listener for listener in (self._operations, self._console) if listener is not None]
