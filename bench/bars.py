"""What has to be reached, as ratios within one run: figures of two runs or machines are never compared."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

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
    """The bars that the cases of one worker give."""
    rate = {(one.door, one.case): one.decisions_per_second for one in measures if one.workers == 1}
    p50 = {(one.door, one.case): one.p50_ms for one in measures if one.workers == 1}
    unary, lone, plain = "unary, 1 key", "unary, one at a time", "front, no limiter"
    yield Bar("unary: envoy / grpcio", rate["envoy", unary] / rate["grpcio", unary], ">=", 5)
    yield Bar("unary / empty handler, envoy", rate["envoy", unary] / rate["envoy", "empty handler"], ">=", 0.65)
    yield Bar("stream / unary, envoy", rate["envoy", "stream"] / rate["envoy", unary], ">=", 3)
    yield Bar("batch / unary, envoy", rate["envoy", "batch of 64"] / rate["envoy", unary], ">=", 3)
    yield Bar(
        "ShouldRateLimit / unary, envoy", rate["envoy", "ShouldRateLimit, 1 key"] / rate["envoy", unary], ">=", 0.9
    )
    yield Bar("front with RLS / without a limiter", rate["envoy", "front, RLS"] / rate["envoy", plain], ">=", 0.35)
    yield Bar("p50 of a lone call: envoy / grpcio", p50["envoy", lone] / p50["grpcio", lone], "<=", 1)
    yield Bar("failed calls", sum(one.failed for one in measures), "<=", 0)
