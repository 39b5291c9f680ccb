"""The parent of all processes of a server: starts them, restarts them, and drains them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import monotonic
from typing import Final, Protocol

import structlog

from ratelimit_service.errors import StartupError

START_WITHIN: Final = 60.0
"""Seconds that a process gets to start."""

_MIN_PAUSE: Final = 0.1
_MAX_PAUSE: Final = 5.0
"""Seconds before another one is started, from the second early exit in a row on; doubled each time."""

_EARLY: Final = 10.0
"""Seconds up to which an exit is an early one."""

_log = structlog.stdlib.get_logger(__name__)


class Supervisor:
    """Keeps the processes of one server running.

    `front` are the workers on the public port, each of which can answer for the others. `back` is what they need
    behind them: it starts before them and ends after them.
    """

    def __init__(self, front: Sequence["Slot"], back: Sequence["Slot"]) -> None:
        self._front = front
        self._back = back
        self._slots = (*back, *front)
        self._restarts: set[asyncio.Task[None]] = set()
        self._one_at_a_time = asyncio.Lock()
        self._stopping = False

    def processes(self) -> Sequence["Running"]:
        """All that were started and have not ended."""
        return [process for slot in self._slots for process in slot.processes]

    async def open(self) -> None:
        """Start everything, and return when all of it serves. Raises StartupError."""
        await _all(slot.open() for slot in self._back)
        await _all(slot.open() for slot in self._front)

    def restart(self, within: float) -> None:
        """Begin to replace every process, one after the other, so that there is always one that answers.

        The calls of each get at most WITHIN seconds to end. Stops at the first process that cannot be replaced: the
        others keep running as they are. Restarts that are requested meanwhile follow; a drain ends them all.
        """
        if not self._stopping:
            restart = asyncio.create_task(self._restart(within))
            self._restarts.add(restart)
            restart.add_done_callback(self._restarts.discard)

    async def drain(self, within: float, *, delay: float = 0.0) -> None:
        """End everything; calls get at most WITHIN seconds. From now on no process is started.

        For DELAY seconds before, everything goes on serving and reports that it is about to end.
        """
        _log.info("draining", seconds=within, delay=delay)
        await self._stop_starting()
        for slot in self._slots:
            slot.announce_drain()
        await asyncio.sleep(delay)
        await _all(slot.drain(within) for slot in self._front)
        await _all(slot.drain(within) for slot in self._back)

    async def kill(self) -> None:
        """End everything at once, and return when it has ended."""
        await self._stop_starting()
        await _all(slot.kill() for slot in self._slots)

    async def _restart(self, within: float) -> None:
        async with self._one_at_a_time:
            _log.info("rolling restart begins")
            try:
                for slot in self._slots:
                    await slot.replace(within)
            except StartupError as error:
                _log.error("rolling restart stopped; the processes that run are kept", error=str(error))
            else:
                _log.info("rolling restart done")

    async def _stop_starting(self) -> None:
        # Restarts first: each of them would have its slot start processes again.
        self._stopping = True
        await _cancel(self._restarts)
        await _all(slot.stop_starting() for slot in self._slots)


class Running(Protocol):
    """A process that was started."""

    name: str
    pid: int

    @property
    def beats(self) -> int | None:
        """How often it has reported that it lives, None while it is not to: before it serves, and while it drains."""
        ...

    async def ready(self, within: float, /) -> None:
        """Wait until it serves. Raises StartupError if it does not within so many seconds."""
        ...

    async def ended(self) -> int:
        """Wait until it has ended, and return its exit code."""
        ...

    async def drain(self, within: float, /) -> None:
        """Close its connections gracefully and end it; its calls get at most so many seconds.

        May be called before it serves, and again after a first call was cancelled.
        """
        ...

    def announce_drain(self) -> None:
        """Have it report, if it reports health, that the whole server is about to end, and go on serving."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...

    def kill_hung(self) -> None:
        """End it, and have it write to the log where it stands."""
        ...


Start = Callable[[], Awaitable[Running]]
"""Starts a process, without waiting until it serves. Raises OSError."""


class Slot:
    """Keeps one process running: starts it, and starts another when it ends."""

    def __init__(self, start: Start, on_exit: Callable[[int], None]) -> None:
        """ON_EXIT is called with the id of every process that has ended."""
        self._start = start
        self._on_exit = on_exit
        self.processes: list[Running] = []
        """Those that were started and have not ended: more than one while one takes the place of another."""
        self._keeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Fill it for the first time. Raises StartupError."""
        self._keep(await self._start_one())

    async def replace(self, within: float) -> None:
        """Start another process, and drain the one before once the other serves. Raises StartupError.

        If this is cancelled, whatever was started or is being drained is left to `drain` and `kill`.
        """
        successor = await self._start_one()
        await self.stop_starting()
        self._keep(successor)
        await _all(self._end(process, within) for process in self.processes if process is not successor)

    async def stop_starting(self) -> None:
        """Do not start another process when one ends. One that is starting is left to `drain` and `kill`."""
        if self._keeper is not None:
            await _cancel((self._keeper,))
            self._keeper = None

    async def drain(self, within: float) -> None:
        """Empty it: calls get at most WITHIN seconds. Nothing may start a process any more."""
        await _all(self._end(process, within) for process in self.processes)

    def announce_drain(self) -> None:
        """Report that the whole server is about to end."""
        for process in self.processes:
            process.announce_drain()

    async def kill(self) -> None:
        """Empty it at once. Nothing may start a process any more."""
        for process in self.processes:
            process.kill()
        await _all(self._ended(process) for process in self.processes)

    async def _end(self, process: Running, within: float) -> None:
        await process.drain(within)
        await self._ended(process)
        _log.info("ended", process=process.name, pid=process.pid)

    async def _start_one(self) -> Running:
        """Start a process and wait until it serves. One that does not has ended when this raises StartupError."""
        try:
            process = await self._start()
        except OSError as error:
            raise StartupError(f"a process could not be started: {error}") from error
        self.processes.append(process)
        try:
            await process.ready(START_WITHIN)
        except Exception:
            process.kill()
            await self._ended(process)
            raise
        _log.info("serves", process=process.name, pid=process.pid)
        return process

    async def _ended(self, process: Running) -> int:
        code = await process.ended()
        if process in self.processes:
            self.processes.remove(process)
            self._on_exit(process.pid)
        return code

    def _keep(self, process: Running) -> None:
        self._keeper = asyncio.create_task(self._restart_on_exit(process))

    async def _restart_on_exit(self, first: Running) -> None:
        process: Running | None = first
        pause = 0.0  # the first exit is followed by a start at once: callers may be waiting
        while True:
            if process is not None:
                began = monotonic()
                code = await self._ended(process)
                if monotonic() - began > _EARLY:
                    pause = 0.0
                _log.error(
                    "ended by itself; starting another", process=process.name, pid=process.pid, code=code, pause=pause
                )
            await asyncio.sleep(pause)
            pause = min(max(pause * 2, _MIN_PAUSE), _MAX_PAUSE)
            try:
                process = await self._start_one()
            except StartupError as error:
                process = None
                _log.error("could not be started; trying again", error=str(error), pause=pause)


async def _all(works: Iterable[Awaitable[object]]) -> None:
    """Do all of it, to the end, and only then raise what went wrong first."""
    for result in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel TASKS and wait until they have ended, however they do."""
    for task in (cancelled := tuple(tasks)):
        task.cancel()
    await asyncio.gather(*cancelled, return_exceptions=True)
