"""Running a server, from the first process to the last answer."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from ratelimit_service.logs import set_up_logging
from ratelimit_service.metrics import serve_metrics
from ratelimit_service.server.grpcio import grpcio_supervisor
from ratelimit_service.server.port import with_port
from ratelimit_service.server.runtime import Runtime, open_runtime
from ratelimit_service.server.supervisor import Supervisor
from ratelimit_service.server.transport import Transport
from ratelimit_service.settings import Settings
from ratelimit_service.transport.grpcio.tls import certificates

_STOP = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """SIGTERM and SIGINT end the server: the first one well, the second at once. SIGHUP is passed on."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.stop: asyncio.Future[None] = loop.create_future()
        """Done once the server is to end."""
        self.hurry: asyncio.Future[None] = loop.create_future()
        """Done once it is to end at once."""

    def _on_signal(self) -> None:
        stop = self.hurry if self.stop.done() else self.stop
        if not stop.done():
            stop.set_result(None)

    @contextmanager
    def heard(self, hang_up: Callable[[], None]) -> Iterator[None]:
        """Listen to signals; HANG_UP is called for each SIGHUP."""
        loop = asyncio.get_running_loop()
        for number in _STOP:
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, hang_up)
        try:
            yield
        finally:
            for number in (*_STOP, signal.SIGHUP):
                loop.remove_signal_handler(number)


def run(settings: Settings, *, ready: Callable[[Settings], None]) -> None:
    """Serve until SIGTERM or SIGINT has drained the calls; call READY once all processes serve.

    READY gets the settings with the addresses as they were opened: a port that was 0 is the one that was taken.
    SIGHUP replaces the processes one by one. A second SIGTERM or SIGINT ends everything at once. Must be called on
    the main thread: signals arrive there, and the processes live as long as it does. Raises StartupFault.
    """
    set_up_logging(settings.log_level, settings.log_format)
    asyncio.run(_run(settings, ready))


async def _run(settings: Settings, ready: Callable[[Settings], None]) -> None:
    transport = Transport.choose(settings.transport)
    certificates(settings)  # no good ones: say so before anything is started
    with open_runtime(settings) as runtime, ExitStack() as stack:
        opened = {"listen": with_port(settings.listen, runtime.lock.port)}
        if settings.metrics_listen:
            metrics = serve_metrics(settings.metrics_listen, runtime.metrics)
            stack.callback(metrics.close)
            opened["metrics_listen"] = with_port(settings.metrics_listen, metrics.port)
        works = _Works()
        supervisor = grpcio_supervisor(runtime) if transport.name == "grpcio" else _envoy_supervisor(runtime, works)
        try:
            serving = partial(ready, settings.model_copy(update=opened))
            await _live(supervisor, settings.drain_timeout, serving, works)
        finally:
            supervisor.kill()  # whatever has happened: nobody is left behind
            await works.cancel()


async def _live(supervisor: Supervisor, within: float, ready: Callable[[], None], works: "_Works") -> None:
    signals = Signals()
    with signals.heard(hang_up=lambda: works.start(supervisor.restart(within))):
        if await _unless(signals.stop, supervisor.open()):
            ready()
            await signals.stop
            await _unless(signals.hurry, supervisor.drain(within))


def _envoy_supervisor(runtime: Runtime, works: "_Works") -> Supervisor:
    # Only now: the transport grpcio must open without what this one needs.
    from ratelimit_service.server.envoy import envoy_supervisor, renewal  # noqa: PLC0415

    renewing = renewal(runtime)
    if renewing is None:
        return envoy_supervisor(runtime, None)
    works.start(renewing.watch())
    return envoy_supervisor(runtime, renewing.tls)


async def _unless(stop: asyncio.Future[None], work: Coroutine[Any, Any, None]) -> bool:
    """Do WORK unless TOLD comes first. Returns whether it was done; raises what it raises."""
    doing = asyncio.create_task(work)
    await asyncio.wait((doing, stop), return_when=asyncio.FIRST_COMPLETED)
    if doing.done():
        await doing
        return True
    doing.cancel()
    await asyncio.wait((doing,))
    return False


class _Works:
    """What goes on beside everything else, kept by reference: the loop itself forgets tasks that nobody holds."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do WORK beside everything else."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def cancel(self) -> None:
        """End what still goes on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
