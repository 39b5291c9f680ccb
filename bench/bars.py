"""What has to be reached, as ratios within one run: figures of two runs or machines are never compared."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench.front import FRONTS
from bench.measure import Measure


class Bar(NamedTuple):
    """A ratio or amount, and the bound that it has to keep to: `relation` is `>=` or `<=`."""

    name: str
    value: float
    relation: str
    bound: float

    @property
    def met(self) -> bool:
        """Whether it is kept to."""
        return self.value >= self.bound if self.relation == ">=" else self.value <= self.bound


def ratios(measures: Sequence[Measure]) -> Iterator[Bar]:
    """The bars that the cases give."""
    unary, lone = "unary, 1 key", "unary, one at a time"
    found = {(one.transport, one.workers, one.case): one for one in measures}

    def rates(name: str, case: tuple[str, int, str], per: tuple[str, int, str], bound: float) -> Bar:
        return Bar(name, found[case].decisions_per_second / found[per].decisions_per_second, ">=", bound)

    yield rates("unary: envoy / grpcio", ("envoy", 1, unary), ("grpcio", 1, unary), 5)
    yield rates("unary / empty handler, envoy", ("envoy", 1, unary), ("envoy", 1, "empty handler"), 0.65)
    for workers in (1, 2):
        for case in ("stream", "batch of 64"):
            name = f"{case} / unary, envoy x{workers}"
            yield rates(name, ("envoy", workers, case), ("envoy", workers, unary), 3)
    yield rates("ShouldRateLimit / unary, envoy", ("envoy", 1, "ShouldRateLimit, 1 key"), ("envoy", 1, unary), 0.9)
    for threads in FRONTS:
        limited, plain = f"front x{threads}, RLS", f"front x{threads}, no limiter"
        yield rates(f"front x{threads} with RLS / without", ("envoy", 1, limited), ("envoy", 1, plain), 0.35)
    p50 = {transport: found[transport, 1, lone].p50_ms for transport in ("envoy", "grpcio")}
    yield Bar("p50 of a lone call: envoy / grpcio", p50["envoy"] / p50["grpcio"], "<=", 1)
    yield Bar("failed calls", sum(one.failed for one in measures), "<=", 0)
