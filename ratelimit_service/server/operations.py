"""The operations process: serves the operations port, and does the control plane's background work.

It runs as `python -m ratelimit_service.server.operations PARENT_PID`, once for each server, and has no part in calls:
it needs no store to answer, and if it ends it is started again.
"""

import asyncio
import os
import platform
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

import structlog
from starlette.types import ASGIApp

from ratelimit_service.background import Background
from ratelimit_service.bootstrap import Planes, open_planes
from ratelimit_service.errors import StartupError
from ratelimit_service.metrics import DIRECTORY_VARIABLE, Scraper
from ratelimit_service.operations.app import console_app, operations_app
from ratelimit_service.operations.heartbeat import HEARTBEATS_VARIABLE, reports, serving_workers
from ratelimit_service.operations.listener import Listener, is_loopback
from ratelimit_service.operations.readiness import Readiness
from ratelimit_service.operations.tls import TlsFiles
from ratelimit_service.server.child import Child, SupervisorLink, run_child, start
from ratelimit_service.server.console import open_console
from ratelimit_service.server.instance import Instance
from ratelimit_service.server.port import open_listener, resolve, with_port
from ratelimit_service.server.transport import Transport
from ratelimit_service.settings import Settings

_MODULE: Final = "ratelimit_service.server.operations"
_OPERATIONS_VARIABLE: Final = "RATELIMIT_OPERATIONS_FD"
_CONSOLE_VARIABLE: Final = "RATELIMIT_CONSOLE_FD"

_FIRST_ATTEMPT: Final = 10.0
"""Seconds that opening the stores gets before the ports are served without them."""

_PAUSE: Final = 5.0
"""Seconds before another attempt to open the stores."""

_LAST_REQUESTS: Final = 1.0
"""Seconds that requests get to end."""

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ports:
    """The listening sockets of the operations process. They are the supervisor's: a successor gets the same ones."""

    operations: socket.socket | None
    console: socket.socket | None

    def opened(self, settings: Settings) -> dict[str, str]:
        """The settings of the ports with the addresses as they were opened."""
        listening = {"operations_listen": self.operations, "console_listen": self.console}
        return {
            name: with_port(getattr(settings, name), port.getsockname()[1])
            for name, port in listening.items()
            if port is not None
        }

    @classmethod
    def inherited(cls) -> "Ports":
        """Those that the supervisor has passed to this process."""

        def inherit(variable: str) -> socket.socket | None:
            return socket.socket(fileno=int(os.environ[variable])) if variable in os.environ else None

        return cls(inherit(_OPERATIONS_VARIABLE), inherit(_CONSOLE_VARIABLE))


@contextmanager
def open_ports(settings: Settings) -> Iterator[Ports]:
    """Listen on the addresses that the settings name, and close them at the end. Raises StartupError."""
    with ExitStack() as stack:

        def listen(address: str, setting: str) -> socket.socket | None:
            return stack.enter_context(open_listener(address, setting)) if address else None

        yield Ports(
            listen(settings.operations_listen, "RATELIMIT_OPERATIONS_LISTEN"),
            listen(settings.console_listen, "RATELIMIT_CONSOLE_LISTEN"),
        )


def console_obstacle(settings: Settings) -> str:
    """Why the console is off although there is a port for it, and what to do; empty if it is not.

    Raises StartupError if the address of the port is invalid.
    """
    listen = settings.console_listen or settings.operations_listen
    setting = "RATELIMIT_CONSOLE_LISTEN" if settings.console_listen else "RATELIMIT_OPERATIONS_LISTEN"
    if not listen or settings.tls_certificate is not None or is_loopback(resolve(listen, setting)[-1][0]):
        return ""
    return (
        f"{setting} is {listen}, and beyond loopback the console needs TLS; set RATELIMIT_TLS_CERTIFICATE and "
        "RATELIMIT_TLS_KEY, or give it a port of its own with RATELIMIT_CONSOLE_LISTEN=127.0.0.1:9465"
    )


class Operations:
    """Starts operations processes, all on the same sockets: while one takes the place of another, none is refused."""

    def __init__(self, instance: Instance, ports: Ports) -> None:
        self._instance = instance
        self._ports = ports

    async def start(self) -> Child:
        """Start one."""
        listening = {_OPERATIONS_VARIABLE: self._ports.operations, _CONSOLE_VARIABLE: self._ports.console}
        numbers = {name: port.fileno() for name, port in listening.items() if port is not None}
        variables = {name: str(number) for name, number in numbers.items()}
        environment = {**self._instance.environment(), **variables}
        return await start("operations", _MODULE, [str(os.getpid())], environment, inherited=tuple(numbers.values()))


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
        self.readiness = Readiness(partial(reports, heartbeats), settings.workers)
        self._scraper = Scraper(
            Path(os.environ[DIRECTORY_VARIABLE]),
            workers,
            configured=settings.workers,
            stores=self.readiness.answering,
            build={
                "version": version("ratelimit-service"),
                "python": platform.python_version(),
                "transport": Transport.choose(settings.transport).name,
            },
        )
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
                async with open_planes(self._settings) as planes:
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

    async def _work(self, planes: Planes) -> None:
        self.readiness.reasons = planes.enforcement.reasons
        await self.readiness.probe(planes.probes)
        console = open_console(
            planes,
            self._settings,
            silent=self.readiness.silent,
            degraded=self.readiness.degraded,
            scrape=self._scraper.text,
            workers=self._workers,
        )
        self._mount(console)
        background = Background()
        background.start("readiness", partial(self.readiness.watch, planes.probes))
        for name, work in planes.control:
            background.start(name, work)
        self._attempted()
        try:
            await asyncio.Event().wait()
        finally:
            await background.close()

    def _attempted(self) -> None:
        if not self.attempted.done():
            self.attempted.set_result(None)

    def _mount(self, console: ASGIApp | None) -> None:
        """Serve CONSOLE on its port: its own if it has one, else the operations port."""
        if self._operations is not None:
            shared = console if self._console is None else None
            self._operations.app = operations_app(
                self._scraper.text, self.readiness, console=shared, console_needs_tls=not self._operations.loopback
            )
        if self._console is not None:
            self._console.app = console_app(console, needs_tls=not self._console.loopback)

    def _listeners(self) -> list[Listener]:
        return [listener for listener in (self._operations, self._console) if listener is not None]


if __name__ == "__main__":
    main()
