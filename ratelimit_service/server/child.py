"""A process that the supervisor started, from both sides: how it is started, what it reports, and how it ends."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from ratelimit_service.errors import StartupFault

REPORT_VARIABLE: Final = "RATELIMIT_REPORT_FD"
DRAIN_VARIABLE: Final = "RATELIMIT_DRAIN_FD"

READY: Final = "ready"
_FAULT: Final = "fault "


class Loop(Protocol):
    """What is used of an event loop."""

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> object: ...  # noqa: D102
    def remove_reader(self, fd: int, /) -> object: ...  # noqa: D102


class Report:
    """A child's side of the pipes."""

    def __init__(self) -> None:
        self._report = int(os.environ[REPORT_VARIABLE])
        self._drain_pipe = int(os.environ[DRAIN_VARIABLE])

    def ready(self) -> None:
        """Say that this process serves."""
        os.write(self._report, f"{READY}\n".encode())

    def fault(self, words: str) -> None:
        """Say why this process cannot start."""
        os.write(self._report, f"{_FAULT}{' '.join(words.split())}\n".encode())

    def on_drain(self, loop: Loop, callback: Callable[[], object]) -> None:
        """Call CALLBACK once, when the supervisor says that callers are to be sent elsewhere."""

        def stop() -> None:
            loop.remove_reader(self._drain_pipe)
            callback()

        loop.add_reader(self._drain_pipe, stop)


def fault_in(line: str) -> str | None:
    """The words of a fault that was reported, or None if LINE reports something else."""
    return line.removeprefix(_FAULT).strip() if line.startswith(_FAULT) else None


_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent, the process PARENT, ends, however that ends.

    It survives an exec, so it holds for an Envoy that takes this process's place. Ends at once if the parent is gone
    already. Linux only; elsewhere a child that outlives its supervisor holds the port, and the next supervisor says so.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        raise SystemExit(0)


_KILL_AFTER = 5.0
"""Seconds that a process gets to end after it was told to, and its calls have ended."""


class Child:
    """One process: told by pipe and signal, and known to serve when it says so."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, reports: int, drain_read: int) -> None:
        """REPORTS and LEAVE are our ends of the pipes; they are closed when the process has ended."""
        self.name = name
        self._process = process
        self._reports = os.fdopen(reports, "rb", buffering=0)
        self._drain_pipe = drain_read
        self._ended = asyncio.create_task(self._wait())

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    async def ready(self, within: float) -> None:
        """Wait until it serves. Raises StartupFault if it reports a fault, ends, or takes over WITHIN seconds."""
        try:
            line = await asyncio.wait_for(self._report(), within)
        except TimeoutError:
            raise StartupFault(f"{self.name} did not start within {within:.0f} seconds; see its log") from None
        if not line:
            code = await self._ended
            raise StartupFault(f"{self.name} ended while it started, with code {code}; see its log")
        fault = fault_in(line)
        if fault is not None:
            raise StartupFault(fault)

    async def ended(self) -> int:
        """Wait until the process has ended. Returns its code, a negative signal number if a signal ended it."""
        return await asyncio.shield(self._ended)

    def request_drain(self) -> None:
        """Say that callers are to be sent elsewhere."""
        if not self._ended.done():
            os.write(self._drain_pipe, b"\n")

    async def stop(self, within: float) -> None:
        """End it by SIGTERM, and by SIGKILL if that takes more than WITHIN seconds and a few."""
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.ended(), within + _KILL_AFTER)
        except TimeoutError:
            self.kill()
            await self.ended()

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if not self._ended.done():
            self._process.send_signal(number)

    async def _report(self) -> str:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), self._reports)
        return (await reader.readline()).decode("utf-8", "replace")

    async def _wait(self) -> int:
        code = await self._process.wait()
        os.close(self._drain_pipe)
        return code


async def start(name: str, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Child:
    """Start MODULE of this Python as a process.

    In a session of its own, so that a terminal's Ctrl-C reaches the supervisor alone, which then drains. The module
    must tie itself to its parent's life with `parent.die_with`; for that, the calling thread must be one that lasts.
    """
    reports, report = os.pipe()
    drain_read, tell = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            env={**environment, REPORT_VARIABLE: str(report), DRAIN_VARIABLE: str(drain_read)},
            pass_fds=(report, drain_read),
            start_new_session=True,
        )
    except BaseException:
        os.close(reports)
        os.close(tell)
        raise
    finally:
        os.close(report)
        os.close(drain_read)
    return Child(name, process, reports, tell)
