"""The bars to meet: ratios within one run (figures of two runs or machines are never compared), memory, and sharing."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench.cases import Case
from bench.front import FRONTS
from bench.load import Load
from bench.measure import MIB, Measure, Usage, cpu_of_each_child
from bench.target import Target


class Bar(NamedTuple):
    """A ratio or amount, and its bound: `relation` is `>=` or `<=`. `goal` is what it should come to; None: no more."""

    name: str
    value: float
    relation: str
    bound: float
    goal: float | None = None

    @property
    def met(self) -> bool:
        """Whether the value is within the bound."""
        return self._within(self.bound)

    @property
    def verdict(self) -> str:
        """`missed`, `met`, or `goal met`."""
        if not self.met:
            return "missed"
        return "goal met" if self.goal is not None and self._within(self.goal) else "met"

    def __str__(self) -> str:
        goal = "" if self.goal is None else f", goal {self.goal:g}"
        return f"{self.verdict:<8} {self.name}: {self.value:.2f} (needs {self.relation} {self.bound:g}{goal})"

    def _within(self, bound: float) -> bool:
        return self.value >= bound if self.relation == ">=" else self.value <= bound


def ratios(measures: Sequence[Measure]) -> Iterator[Bar]:
    """The bars for the cases."""
    unary, lone = "unary, 1 key", "unary, one at a time"
    found = {(one.transport, one.workers, one.case): one for one in measures}

    def rates(name: str, case: tuple[str, int, str], per: tuple[str, int, str], bound: float) -> Bar:
        return Bar(name, found[case].decisions_per_second / found[per].decisions_per_second, ">=", bound)

    yield rates("unary: envoy / grpcio", ("envoy", 1, unary), ("grpcio", 1, unary), 5)
    yield rates("unary / empty handler, envoy", ("envoy", 1, unary), ("envoy", 1, "empty handler"), 0.65)
    yield rates("ShouldRateLimit / unary, envoy", ("envoy", 1, "ShouldRateLimit, 1 key"), ("envoy", 1, unary), 0.9)
    for threads in FRONTS:
        limited, plain = f"front x{threads}, RLS", f"front x{threads}, no limiter"
        yield rates(f"front x{threads} with RLS / without", ("envoy", 1, limited), ("envoy", 1, plain), 0.35)
        for bucket, bound in (("one bucket", 0.87), ("by header", 0.83)):
            own = f"front x{threads}, RLQS, {bucket}"
            yield rates(f"{own} / without", ("envoy", 1, own), ("envoy", 1, plain), bound)
    p50 = {transport: found[transport, 1, lone].p50_ms for transport in ("envoy", "grpcio")}
    yield Bar("p50 of a lone call: envoy / grpcio", p50["envoy"] / p50["grpcio"], "<=", 1)
    yield Bar("failed calls", sum(one.failed for one in measures), "<=", 0)


def without_counting(name: str) -> str:
    """The name of a case on a server that counts no usage."""
    return f"{name}, uncounted"


def counting(measures: Sequence[Measure]) -> Iterator[Bar]:
    """The bars for the cost of counting usage: in throughput, where Redis and workers share the cores, and in CPU."""
    found = {(one.transport, one.case): one for one in measures}
    for (transport, case), measure in found.items():
        uncounted = found.get((transport, without_counting(case)))
        if uncounted is not None:
            ratio = measure.decisions_per_second / uncounted.decisions_per_second
            yield Bar(f"{case}: counted / uncounted, {transport}", ratio, ">=", 0.9 if "unary" in case else 0.85)
            cpu = (measure.server_cpu + measure.redis_cpu) / (uncounted.server_cpu + uncounted.redis_cpu)
            yield Bar(f"{case}: CPU counted / uncounted, {transport}", cpu, "<=", 1.1 if "unary" in case else 1.2)


def memory(case: Case, target: Target, calls: int) -> Iterator[Bar]:
    """How much more memory the server has resident after CALLS calls, warmed up by a fifth as many before."""
    case.run(target.port, Load(calls=calls // 5))
    before = Usage.of(target.pid).resident_bytes
    result = case.run(target.port, Load(calls=calls))
    grown = (Usage.of(target.pid).resident_bytes - before) / MIB
    yield Bar(f"MiB grown over {calls:,} calls, {target.transport}", grown, "<=", 5)
    yield Bar(f"failed of {calls:,} calls, {target.transport}", calls - result.answered, "<=", 0)


def sharing(case: Case, target: Target, load: Load) -> Iterator[Bar]:
    """The share of the second busiest process in the CPU time of the two busiest."""
    before = cpu_of_each_child(target.pid)
    case.run(target.port, load)
    used = sorted(seconds - before.get(pid, 0.0) for pid, seconds in cpu_of_each_child(target.pid).items())[-2:]
    yield Bar(f"share of the lesser of two workers, {target.transport}", used[0] / sum(used), ">=", 0.3)
