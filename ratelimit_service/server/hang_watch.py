"""Finds the processes of a server that hang, and ends them: the supervisor then starts others."""

import asyncio
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import structlog

HUNG_SECONDS: Final = 1.5
"""For which a process may not report that it lives. It reports it twice a second."""

CHECK_SECONDS: Final = 0.25
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

    def kill(self) -> None:
        """End it at once, with all its connections."""
        ...


class Activity(NamedTuple):
    """What the kernel says of a process: the seconds of CPU that it has used, and whether it waits for the machine."""

    cpu_seconds: float
    waits_for_machine: bool


class _Silence(NamedTuple):
    """A process that has not reported since its last `beats`, for `seconds` that count against it."""

    beats: int
    seconds: float
    cpu_seconds: float | None = None


class HangWatch:
    """Ends what is stopped, blocked or in an endless loop, and neither what waits for a CPU or a disk nor what drains.

    A process that is ready to run and does not get a CPU does not hang, nor does one while the whole machine, and so
    this process too, stands still. So of a process that waits for the machine only the CPU counts that it uses without
    reporting; of any other, time does, and never more of it than there is between two checks.
    """

    def __init__(
        self, processes: Callable[[], Iterable[Watched]], activity: Callable[[int], Activity] | None = None
    ) -> None:
        """PROCESSES are those that run now. ACTIVITY is what the kernel says of the process with an id."""
        self._processes = processes
        self._activity = activity or kernel_activity
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
                self._silent[process.pid] = _Silence(beats, 0.0)
            elif (longer := self._longer(silence, process.pid)).seconds < HUNG_SECONDS:
                self._silent[process.pid] = longer
            else:
                _log.error("it hangs; ended, so that another takes its place", process=process.name, pid=process.pid)
                process.kill()

    def _longer(self, silence: _Silence, pid: int) -> _Silence:
        now = self._activity(pid)
        passed = CHECK_SECONDS
        if now.waits_for_machine:
            used = 0.0 if silence.cpu_seconds is None else now.cpu_seconds - silence.cpu_seconds
            passed = min(used, CHECK_SECONDS)
        return _Silence(silence.beats, silence.seconds + passed, now.cpu_seconds)


def kernel_activity(pid: int) -> Activity:
    """What the process does. Where there is no /proc, or it has ended, it counts as one that waits for nothing here."""
    folder = Path(f"/proc/{pid}")
    try:
        _, *fields = _after_name(folder / "stat")
        states = {_after_name(thread / "stat")[0] for thread in (folder / "task").iterdir()}
    except (OSError, IndexError):
        return Activity(0.0, waits_for_machine=False)
    return Activity((int(fields[10]) + int(fields[11])) / _TICKS, not states.isdisjoint(_WAITS_FOR_MACHINE))


def _after_name(stat: Path) -> list[str]:
    """The fields of such a file of the kernel from the third on, the state. The second one may have any character."""
    return stat.read_text().rpartition(")")[2].split()
