"""Finds the processes of a server that hang, and ends them: the supervisor then starts others."""

import asyncio
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple, Protocol

import structlog

HUNG_SECONDS: Final = 1.4
"""For which a process may wait without reporting that it lives. It reports it five times a second."""

HUNG_CPU_SECONDS: Final = 1.0
"""Of CPU that a process may use without a report: more than any one step of its event loop takes."""

CHECK_SECONDS: Final = 0.2
"""Between two checks of all processes."""

_WAITS_FOR_MACHINE: Final = frozenset("RD")
"""States of a thread that runs, or is ready to, and of one that waits for a disk."""

_TICKS: Final = os.sysconf("SC_CLK_TCK")

_log = structlog.stdlib.get_logger(__name__)


class Watched(Protocol):
    """A process that can be ended."""

    name: str
    pid: int

    @property
    def beats(self) -> int | None:
        """How often it has reported that it lives, None while it is not to."""
        ...

    def kill_hung(self) -> None:
        """End it, with all its connections, and have it write to the log where it stands."""
        ...


class Kernel(Protocol):
    """What the kernel says of processes."""

    def cpu_seconds(self, pid: int) -> float:
        """The seconds of CPU that it has used, 0 if that is not known."""
        ...

    def waits_for_machine(self, pid: int) -> bool:
        """Whether it runs or could run, or waits for a disk."""
        ...


class _Silence(NamedTuple):
    """A process that has not reported since its last `beats`.

    Meanwhile it waited for `waited` seconds, and used `used` seconds of CPU; at the monotonic time `at` it had used
    `cpu_seconds` in all.
    """

    beats: int
    cpu_seconds: float
    at: float
    waited: float = 0.0
    used: float = 0.0


class HangWatch:
    """Ends what is stopped, blocked or in an endless loop, and neither what waits for a CPU or a disk nor what drains.

    A process that is ready to run and does not get a CPU does not hang, nor does one while the whole machine, and so
    this process too, stands still. So of a process that waits for the machine only the CPU counts that it uses without
    reporting, however little that is; of any other, time does, and never more of it than there is between two checks.
    """

    def __init__(
        self,
        processes: Callable[[], Iterable[Watched]],
        kernel: Kernel | None = None,
        now: Callable[[], float] = monotonic,
    ) -> None:
        """PROCESSES are those that run now."""
        self._processes = processes
        self._kernel = kernel or ProcKernel()
        self._now = now
        self._silent: dict[int, _Silence] = {}

    async def run(self) -> None:
        """Check them again and again, until cancelled."""
        while True:
            self.check()
            await asyncio.sleep(CHECK_SECONDS)

    def check(self) -> None:
        """Check every process once."""
        before, self._silent = self._silent, {}
        for process in self._processes():
            beats = process.beats
            if beats is None:  # it starts, or drains: both have limits of their own
                continue
            silence = before.get(process.pid)
            if silence is None or silence.beats != beats:
                self._silent[process.pid] = _Silence(beats, self._kernel.cpu_seconds(process.pid), self._now())
                continue
            longer = self._longer(silence, process.pid)
            if longer.waited < HUNG_SECONDS and longer.used < HUNG_CPU_SECONDS:
                self._silent[process.pid] = longer
            else:
                _log.error("it hangs; ended, so that another takes its place", process=process.name, pid=process.pid)
                process.kill_hung()

    def _longer(self, silence: _Silence, pid: int) -> _Silence:
        now, cpu_seconds = self._now(), self._kernel.cpu_seconds(pid)
        if not self._kernel.waits_for_machine(pid):
            return silence._replace(at=now, cpu_seconds=cpu_seconds, waited=silence.waited + CHECK_SECONDS)
        # Of several threads, of which one reports, no more counts than of one; and no jump of the kernel's figures.
        used = min(cpu_seconds - silence.cpu_seconds, now - silence.at, 2 * CHECK_SECONDS)
        return silence._replace(at=now, cpu_seconds=cpu_seconds, used=silence.used + used)


class ProcKernel:
    """The kernel's own figures. Where there is no /proc, or a process has ended, it waits for nothing here."""

    def cpu_seconds(self, pid: int) -> float:
        """The seconds of CPU that it has used, 0 if that is not known."""
        try:
            fields = _after_name(Path(f"/proc/{pid}/stat"))
            return (int(fields[11]) + int(fields[12])) / _TICKS
        except (OSError, IndexError):
            return 0.0

    def waits_for_machine(self, pid: int) -> bool:
        """Whether a thread of it runs or could run, or waits for a disk."""
        try:
            states = {_after_name(thread / "stat")[0] for thread in Path(f"/proc/{pid}/task").iterdir()}
        except (OSError, IndexError):
            return False
        return not states.isdisjoint(_WAITS_FOR_MACHINE)


def _after_name(stat: Path) -> list[str]:
    """The fields of such a file of the kernel from the third on, the state. The second one may have any character."""
    return stat.read_text().rpartition(")")[2].split()
