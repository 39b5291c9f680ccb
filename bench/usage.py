"""What processes use: CPU seconds and resident memory, of a process with all its children."""

from typing import NamedTuple

import psutil


class Usage(NamedTuple):
    """CPU seconds since the start, and bytes of resident memory now."""

    cpu_seconds: float
    resident_bytes: int

    @classmethod
    def of(cls, pid: int) -> "Usage":
        """The usage of process PID and of all that it started."""
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        times = [member.cpu_times() for member in family]
        return cls(sum(time.user + time.system for time in times), sum(member.memory_info().rss for member in family))


def cpu_of_each_child(pid: int) -> dict[int, float]:
    """CPU seconds of each process that PID started, by process id."""
    found = {}
    for child in psutil.Process(pid).children(recursive=True):
        time = child.cpu_times()
        found[child.pid] = time.user + time.system
    return found
