"""Rows of the comparison: each a median of ratios, of two measures of the same turn.

Two measures in one turn are seconds apart, so that what else the machine does meanwhile changes both.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import NamedTuple, TypeAlias

from bench.bars import Bar
from bench.measure import Measure

Turn: TypeAlias = Mapping[str, Measure]
"""One measure of each case, by its name."""

Figure: TypeAlias = Callable[[Measure], float]


def rate(measure: Measure) -> float:
    """Decisions a second."""
    return measure.decisions_per_second


def p50(measure: Measure) -> float:
    """Milliseconds."""
    return measure.p50_ms


def p99(measure: Measure) -> float:
    """Milliseconds."""
    return measure.p99_ms


def own_cpu(measure: Measure) -> float:
    """Of the server's processes, in microseconds a decision."""
    return measure.server_cpu


def all_cpu(measure: Measure) -> float:
    """Of the server's processes and of the store, in microseconds a decision."""
    return measure.server_cpu + measure.redis_cpu


class Row(NamedTuple):
    """FIGURE of one case per that of another, by their names, with the bound and the goal for the ratio."""

    name: str
    of: str
    per: str
    figure: Figure
    relation: str
    bound: float
    goal: float | None = None


def ratios(row: Row, turns: Sequence[Turn]) -> list[float]:
    """Those of each turn, lowest first."""
    return sorted(row.figure(turn[row.of]) / row.figure(turn[row.per]) for turn in turns)


def bars(rows: Sequence[Row], turns: Sequence[Turn]) -> Iterator[tuple[Bar, float, float]]:
    """The median of each row whose cases were measured, and its lowest and highest ratio."""
    for row in rows:
        if row.of in turns[0] and row.per in turns[0]:
            found = ratios(row, turns)
            yield Bar(row.name, median(found), row.relation, row.bound, row.goal), found[0], found[-1]
