"""Running a case and keeping what it cost."""

from collections.abc import Sequence
from typing import NamedTuple

from bench.cases import Case
from bench.load import Load
from bench.target import Target
from bench.usage import Usage

_MILLION = 1e6
_MIB = 2**20


class Measure(NamedTuple):
    """What a case gave. CPU in seconds per million decisions; memory is what the server has resident at the end."""

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
    """Put TARGET under the load of CASE once."""
    server, redis = Usage.of(target.pid), Usage.of(redis_pid)
    result = case.run(target.port, load)
    server_after, redis_after = Usage.of(target.pid), Usage.of(redis_pid)
    rate = result.answered * case.decisions / result.seconds
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
        server_after.resident_bytes / _MIB,
        result.failed,
    )


def median(measures: Sequence[Measure]) -> Measure:
    """The measure in the middle by its rate; failures are those of all."""
    ordered = sorted(measures, key=lambda one: one.decisions_per_second)
    return ordered[len(ordered) // 2]._replace(failed=sum(one.failed for one in measures))
