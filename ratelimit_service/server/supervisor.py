"""The parent of all processes of a server: starts them, restarts them, and ends them well."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import monotonic
from typing import Final, Protocol

import structlog

from ratelimit_service.errors import StartupFault

START_WITHIN: Final = 60.0
"""Seconds that a process gets to start."""

_MIN_PAUSE: Final = 0.1
_MAX_PAUSE: Final = 5.0
"""Seconds before another one is started, from the second time on that one ended soon; doubled each time."""

_LIVED_WELL: Final = 10.0
"""Seconds after which an end is no longer a soon one."""

_log = structlog.stdlib.get_logger(__name__)


class Running(Protocol):
    """A process that was started."""

    name: str
    pid: int

    async def ready(self, within: float, /) -> None:
        """Wait until it serves. Raises StartupFault if it does not within so many seconds."""
        ...

    async def ended(self) -> int:
        """Wait until it has ended, and return its code."""
        ...

    async def drain(self, within: float, /) -> None:
        """Send its callers elsewhere and end it; their calls get at most so many seconds."""
        ...

    def announce_drain(self) -> None:
        """Say that the whole server is about to go."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


Start = Callable[[], Awaitable[Running]]
"""Starts a process, without waiting until it serves."""


class Slot:
    """Keeps one process running: starts it, and starts another when it ends."""

    def __init__(self, start: Start, on_exit: Callable[[int], None]) -> None:
        """GONE is told the id of every process that has ended."""
        self._start = start
        self._on_exit = on_exit
        self._running: Running | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Fill it for the first time. Raises StartupFault."""
        self._running = await self._serving()
        self._keep()

    async def replace(self, within: float) -> None:
        """Fill it anew: start another process, and drain the one before once the other serves. Raises StartupFault."""
        successor = await self._serving()
        await self._stop_keeping()
        previous, self._running = self._running, successor
        self._keep()
        if previous is not None:
            await self._end(previous, within)

    async def drain(self, within: float) -> None:
        """Empty it: the process's calls get at most WITHIN seconds."""
        await self._stop_keeping()
        running, self._running = self._running, None
        if running is not None:
            await self._end(running, within)

    def announce_drain(self) -> None:
        """Say that the whole server is about to go."""
        if self._running is not None:
            self._running.announce_drain()

    def kill(self) -> None:
        """End the process at once."""
        if self._running is not None:
            self._running.kill()

    async def _end(self, running: Running, within: float) -> None:
        await running.drain(within)
        self._on_exit(running.pid)
        _log.info("ended", process=running.name, pid=running.pid)

    async def _serving(self) -> Running:
        running = await self._start()
        try:
            await running.ready(START_WITHIN)
        except BaseException:
            running.kill()
            await running.ended()
            self._on_exit(running.pid)
            raise
        _log.info("serves", process=running.name, pid=running.pid)
        return running

    def _keep(self) -> None:
        self._keeping = asyncio.create_task(self._restart_for_ever())

    async def _stop_keeping(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait((self._keeping,))
            self._keeping = None

    async def _restart_for_ever(self) -> None:
        pause = 0.0  # the first time, somebody waits for it to come back
        while True:
            if self._running is not None:
                since = monotonic()
                code = await self._running.ended()
                self._on_exit(self._running.pid)
                if monotonic() - since > _LIVED_WELL:
                    pause = 0.0
                _log.error(
                    "ended by itself; starting another",
                    process=self._running.name,
                    pid=self._running.pid,
                    code=code,
                    pause=pause,
                )
                self._running = None
            await asyncio.sleep(pause)
            pause = min(max(pause * 2, _MIN_PAUSE), _MAX_PAUSE)
            try:
                self._running = await self._serving()
            except StartupFault as fault:
                _log.error("could not be started; trying again", fault=str(fault), pause=pause)


class Supervisor:
    """Keeps the processes of one server running.

    `front` are the workers on the public port, each of which can answer for the others. `back` is what they need
    behind them: it starts before them and ends after them.
    """

    def __init__(self, front: Sequence[Slot], back: Sequence[Slot]) -> None:
        self._front = front
        self._back = back
        self._one_at_a_time = asyncio.Lock()

    async def open(self) -> None:
        """Start everything, and return when all of it serves. Raises StartupFault."""
        await _all(slot.open() for slot in self._back)
        await _all(slot.open() for slot in self._front)

    async def restart(self, within: float) -> None:
        """Replace every process, one after the other, so that there is always one that answers.

        The calls of each get at most WITHIN seconds to end. Stops at the first process that cannot be replaced: the
        others go on as they are.
        """
        async with self._one_at_a_time:
            _log.info("rolling restart begins")
            try:
                for slot in (*self._back, *self._front):
                    await slot.replace(within)
            except StartupFault as fault:
                _log.error("rolling restart stopped: what runs goes on", fault=str(fault))
            else:
                _log.info("rolling restart done")

    async def drain(self, within: float) -> None:
        """End everything; calls get at most WITHIN seconds."""
        _log.info("draining", seconds=within)
        for slot in self._back:
            slot.announce_drain()
        await _all(slot.drain(within) for slot in self._front)
        await _all(slot.drain(within) for slot in self._back)

    def kill(self) -> None:
        """End everything at once."""
        for slot in (*self._front, *self._back):
            slot.kill()


async def _all(works: Iterable[Awaitable[None]]) -> None:
    """Do all of it, to the end, and only then raise what went wrong first."""
    for result in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
