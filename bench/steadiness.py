"""Whether a server stays as it is: its memory over a million calls, and how two workers share the load."""

from collections.abc import Iterator

from bench.bars import Bar
from bench.cases import Case
from bench.load import Load
from bench.target import Target
from bench.usage import Usage, cpu_of_each_child

_MIB = 2**20
_CONNECTIONS = 32


def memory(case: Case, target: Target, calls: int) -> Iterator[Bar]:
    """How much more memory the server has resident after CALLS calls, warmed up by a fifth as many before."""
    case.run(target.port, Load(calls=calls // 5))
    before = Usage.of(target.pid).resident_bytes
    result = case.run(target.port, Load(calls=calls))
    grown = (Usage.of(target.pid).resident_bytes - before) / _MIB
    yield Bar(f"MiB grown over {calls:,} calls, {target.transport}", grown, "<=", 5)
    yield Bar(f"failed of {calls:,} calls, {target.transport}", calls - result.answered, "<=", 0)


def sharing(case: Case, target: Target, load: Load) -> Iterator[Bar]:
    """The share of the busiest process but one in the CPU time of both, with 32 connections."""
    before = cpu_of_each_child(target.pid)
    case.run(target.port, load._replace(connections=_CONNECTIONS, streams=8))
    used = sorted(seconds - before.get(pid, 0.0) for pid, seconds in cpu_of_each_child(target.pid).items())[-2:]
    yield Bar(f"share of the lesser of two workers, {target.transport}", used[0] / sum(used), ">=", 0.3)
