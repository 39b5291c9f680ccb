"""Running a server, from the first process to the last answer."""

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final

import structlog

from ratelimit_service.background import Background
from ratelimit_service.logs import set_up_logging
from ratelimit_service.server.exposure import effective
from ratelimit_service.server.grpcio_workers import grpcio_supervisor
from ratelimit_service.server.hang_watch import HangWatch
from ratelimit_service.server.http_port import HttpProcesses, open_http_port, opened_http
from ratelimit_service.server.instance import Instance, open_instance
from ratelimit_service.server.operations_ports import Operations, console_obstacle, open_ports
from ratelimit_service.server.supervisor import Slot, Supervisor
from ratelimit_service.server.switch_socket import open_switch
from ratelimit_service.server.transport import Transport
from ratelimit_service.settings import Settings, renamed_variables
from ratelimit_service.transport.grpcio.tls import Certificates, certificates

_log = structlog.stdlib.get_logger(__name__)


def run(settings: Settings, *, ready: Callable[[Settings], None]) -> None:
    """Serve until SIGTERM or SIGINT has drained the calls; call READY once all processes serve.

    READY gets the settings with the addresses as they were opened: a port that was 0 is the one that was taken.
    SIGHUP replaces the processes one by one. A second SIGTERM or SIGINT ends everything at once. Must be called on
    the main thread: signals arrive there, and the processes live as long as it does. Raises StartupError.
    """
    set_up_logging(settings.log_level, settings.log_format)
    allow_descriptors()
    asyncio.run(_run(settings, ready))


def allow_descriptors() -> None:
    """Let this process and those it starts open as many descriptors as the system allows: each connection takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # some systems name a hard limit that they do not allow
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _run(settings: Settings, ready: Callable[[Settings], None]) -> None:
    transport = Transport.choose(settings)
    found = certificates(settings)  # bad ones are reported before anything is started
    settings = effective(settings).model_copy(update={"transport": transport.name})
    _warn(settings)
    with open_instance(settings) as instance, open_ports(settings) as ports, open_http_port(settings) as http_port:
        opened = {**instance.opened, **ports.opened(settings), **opened_http(settings, http_port)}
        operations = Slot(Operations(instance, ports).start, instance.on_exit)
        http = [] if http_port is None else [Slot(HttpProcesses(instance, http_port).start, instance.on_exit)]
        background = Background()
        if transport.name == "grpcio":
            supervisor = grpcio_supervisor(instance, operations, http)
        else:
            supervisor = _envoy_supervisor(instance, operations, http, found, background)
        background.start("hang watch", HangWatch(supervisor.processes).run)
        try:
            async with _own_switch(instance, opened["listen"]):
                await _supervise(supervisor, settings, lambda: ready(settings.model_copy(update=opened)))
        finally:
            await supervisor.kill()  # whatever has happened, no process is left behind
            await background.close()


@asynccontextmanager
async def _own_switch(instance: Instance, listen: str) -> AsyncIterator[None]:
    """Have the switch of this server alone be turned, if it decides anything."""
    if not instance.settings.decides:
        yield
        return
    async with open_switch(instance.folder, instance.switch, listen) as path:
        _log.info("the switch of this server alone", socket=str(path))
        yield


def _warn(settings: Settings) -> None:
    """Log what the server starts with although it is most likely not meant."""
    for name, instead in renamed_variables(os.environ):
        _log.warning("setting renamed; the old one is ignored", setting=name, write=instead)
    if obstacle := console_obstacle(settings):
        _log.warning("the console is off", reason=obstacle)


def _envoy_supervisor(
    instance: Instance, operations: Slot, http: Sequence[Slot], found: Certificates | None, background: Background
) -> Supervisor:
    # Only now: the transport grpcio must open without what this one needs.
    from ratelimit_service.server.envoy import envoy_supervisor  # noqa: PLC0415

    return envoy_supervisor(instance, operations, http, found, background)


async def _supervise(supervisor: Supervisor, settings: Settings, ready: Callable[[], None]) -> None:
    signals = Signals()
    within = settings.drain_timeout
    with signals.handled(on_hangup=lambda: supervisor.restart(within)):
        if await _unless(signals.stop, supervisor.open()):
            ready()
            await signals.stop
        await _unless(signals.hurry, supervisor.drain(within, delay=settings.drain_delay))


_STOP: Final = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """SIGTERM and SIGINT end the server: the first one by a drain, the second at once. SIGHUP is passed on."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.stop: asyncio.Future[None] = loop.create_future()
        """Done once the server is to end."""
        self.hurry: asyncio.Future[None] = loop.create_future()
        """Done once it is to end at once."""

    @contextmanager
    def handled(self, on_hangup: Callable[[], None]) -> Iterator[None]:
        """Handle signals; ON_HANGUP is called for each SIGHUP."""
        loop = asyncio.get_running_loop()
        for number in _STOP:
            loop.add_signal_handler(number, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, on_hangup)
        try:
            yield
        finally:
            for number in (*_STOP, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _on_stop(self) -> None:
        stop = self.hurry if self.stop.done() else self.stop
        if not stop.done():
            stop.set_result(None)


async def _unless(stop: asyncio.Future[None], work: Coroutine[Any, Any, None]) -> bool:
    """Do WORK unless STOP is done first. Returns whether it was completed; raises what it raises."""
    task = asyncio.create_task(work)
    await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
        return True
    task.cancel()
    await asyncio.wait((task,))
    return False
