"""Running a case, and what it cost: CPU seconds and resident memory of a process with all its children."""

from collections.abc import Sequence
from typing import NamedTuple

import psutil

from bench.cases import Case
from bench.load import Load
from bench.target import Target

MIB = 2**20
_MILLION = 1e6


class Usage(NamedTuple):
    """CPU seconds since the start, and bytes of resident memory now."""

    cpu_seconds: float
    resident_bytes: int

    @classmethod
    def of(cls, pid: int) -> "Usage":
        """The usage of process PID and of all its descendants."""
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return cls(sum(map(_cpu_seconds, family)), sum(member.memory_info().rss for member in family))


def cpu_of_each_child(pid: int) -> dict[int, float]:
    """CPU seconds of each descendant of process PID, by process id."""
    return {child.pid: _cpu_seconds(child) for child in psutil.Process(pid).children(recursive=True)}


class Measure(NamedTuple):
    """The result of a case. CPU in seconds per million decisions; memory is what the server has resident at the end."""

    transport: str
    workers: int
    case: str
    decisions_per_second: float
    p50_ms: float
    p99_ms: float
    server_cpu: float
    redis_cpu: float
    resident_mib: float
    failed: int


def measure(case: Case, target: Target, redis_pid: int, load: Load) -> Measure:
    """Put TARGET under the load of CASE once. If it answers none, that counts as one, so that ratios are finite."""
    server, redis = Usage.of(target.pid), Usage.of(redis_pid)
    result = case.run(target.port, load)
    server_after, redis_after = Usage.of(target.pid), Usage.of(redis_pid)
    rate = max(result.answered, 1) * case.decisions / (result.seconds or load.seconds)
    # The generator warms up before it counts, at about the same rate; CPU is taken over all of it.
    millions = rate * (load.seconds + load.warm_up) / _MILLION
    return Measure(
        target.transport,
        target.workers,
        case.name,
        rate,
        result.p50_ms,
        result.p99_ms,
        (server_after.cpu_seconds - server.cpu_seconds) / millions,
        (redis_after.cpu_seconds - redis.cpu_seconds) / millions,
        server_after.resident_bytes / MIB,
        result.failed,
    )


def median(measures: Sequence[Measure]) -> Measure:
    """The measure with the median rate; failures are those of all."""
    ordered = sorted(measures, key=lambda one: one.decisions_per_second)
    return ordered[len(ordered) // 2]._replace(failed=sum(one.failed for one in measures))


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
