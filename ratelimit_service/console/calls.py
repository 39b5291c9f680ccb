"""The calls of a key, a subject or a plan over time: a chart, what they are now, and how they divide.

All end with the newest minute that is complete, so parts add up to the whole.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ratelimit_service.console.charts import Series, Span, Spark, bin_starts, series_of, share, spark
from ratelimit_service.console.complete import complete_until
from ratelimit_service.console.services import ConsoleServices
from ratelimit_service.console.visit import Section, Visit
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.management.paging import Paging
from ratelimit_service.usage.query import Counts, UsageReport
from ratelimit_service.usage.query_range import MINUTE
from ratelimit_service.usage.query_request import Dimension, UsageFilter, UsageRequest

NOW_US: Final = 5 * MINUTE
"""The length of "now": the last minutes that are complete, in microseconds."""


@dataclass(frozen=True, slots=True)
class Now:
    """Counts of the last minutes that are complete, until `end_us`."""

    counts: Counts
    end_us: int

    @property
    def per_second(self) -> float:
        """Calls per second."""
        return self.counts.calls / (NOW_US / MICRO)

    @property
    def share(self) -> float:
        """The share of calls that is refused."""
        return share(self.counts)


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls over a range that was chosen, and now."""

    span: Span
    series: Series
    now: Now


@dataclass(frozen=True, slots=True)
class Part:
    """The calls of one group of a range, and how they went."""

    group: tuple[str, ...]
    spark: Spark

    @property
    def counts(self) -> Counts:
        """All of the range."""
        return self.spark.total

    @property
    def share(self) -> float:
        """The share of calls that was refused."""
        return share(self.counts)


async def calls_of(visit: Visit, dimension: Dimension, name: str, span: Span, since_us: int = 0) -> Section[Calls]:
    """Read the calls of SPAN; of one that began at SINCE_US, no earlier than that unless there are counts."""
    return await visit.section(_calls(visit, dimension, name, span, since_us))


async def now_of(visit: Visit, dimension: Dimension, name: str) -> Section[Now]:
    """Read the calls of the last five minutes that are complete."""
    return await visit.section(_now(visit, dimension, name))


async def parts_of(
    visit: Visit, where: UsageFilter, group_by: tuple[Dimension, ...], span: Span, *, groups: int
) -> Section[Sequence[Part]]:
    """Read the calls of SPAN by group, those with most calls first, at most about GROUPS."""
    return await visit.section(_parts(visit, where, group_by, span, groups))


async def sparks_of(
    visit: Visit, dimension: Dimension, names: Sequence[str], span: Span
) -> Section[Mapping[str, Part]]:
    """Read the calls of each of NAMES, at most 100, in one query; those without calls are there too."""
    return await visit.section(_sparks(visit, dimension, names, span))


async def _calls(visit: Visit, dimension: Dimension, name: str, span: Span, since_us: int) -> Calls:
    where = UsageFilter({dimension: (name,)})
    end_us = await complete_until(visit)
    starts = bin_starts(end_us, span.length_us, span.step_us)
    whole, last, now = await asyncio.gather(
        visit.services.usage.query(UsageRequest(where, start_us=starts[0], end_us=end_us, step_us=span.step_us)),
        visit.services.usage.query(UsageRequest(where, start_us=starts[-1], end_us=end_us)),
        _now(visit, dimension, name),
    )
    first_us = min([since_us, *(row.start_us for row in whole.rows[:1])]) // span.step_us * span.step_us
    shown = starts[max(0, min(len(starts) - 1, (first_us - starts[0]) // span.step_us)) :]
    counts = {row.start_us: row.counts for row in whole.rows}
    return Calls(span, series_of(counts, last.total, shown, end_us), now)


async def _now(visit: Visit, dimension: Dimension, name: str) -> Now:
    end_us = await complete_until(visit)
    where = UsageFilter({dimension: (name,)})
    report = await visit.services.usage.query(UsageRequest(where, start_us=end_us - NOW_US, end_us=end_us))
    return Now(report.total, end_us)


async def _parts(
    visit: Visit, where: UsageFilter, group_by: tuple[Dimension, ...], span: Span, groups: int
) -> Sequence[Part]:
    end_us = await complete_until(visit)
    starts = bin_starts(end_us, span.length_us, span.step_us)
    before = UsageRequest(where, group_by, starts[0], starts[-1], span.step_us, top=groups)
    last = UsageRequest(where, group_by, starts[-1], end_us, top=groups)
    found = _merged(
        *await asyncio.gather(visit.services.usage.query(before), visit.services.usage.query(last)), starts=starts
    )
    parts = [Part(group, spark(counts, span.step_us, end_us - starts[-1])) for group, counts in found.items()]
    return sorted(parts, key=lambda part: (-part.counts.calls, part.group))


async def _sparks(visit: Visit, dimension: Dimension, names: Sequence[str], span: Span) -> Mapping[str, Part]:
    found = await sparks_until(visit.services, await complete_until(visit), dimension, names, span)
    return {name: Part((name,), line) for name, line in found.items()}


async def sparks_until(
    services: ConsoleServices, end_us: int, dimension: Dimension, names: Sequence[str], span: Span
) -> Mapping[str, Spark]:
    """Read the calls until END_US of each of NAMES, as `sparks_of` does. DIMENSION is one of calls with a key."""
    if not names:
        return {}
    starts = bin_starts(end_us, span.length_us, span.spark_us)
    where, paging = UsageFilter({dimension: tuple(names)}), Paging(page_size=len(names))
    among = frozenset({Dimension.PLAN})
    before = UsageRequest(where, (dimension,), starts[0], starts[-1], span.spark_us, among=among)
    last = UsageRequest(where, (dimension,), starts[-1], end_us, among=among)
    found = _merged(
        *await asyncio.gather(services.usage.query(before, paging), services.usage.query(last, paging)), starts=starts
    )
    nothing = [Counts()] * len(starts)
    return {name: spark(found.get((name,), nothing), span.spark_us, end_us - starts[-1]) for name in names}


def _merged(before: UsageReport, last: UsageReport, starts: range) -> dict[tuple[str, ...], list[Counts]]:
    """The bins of each group: those that are over, and the last one."""
    position = {start_us: number for number, start_us in enumerate(starts)}
    found: dict[tuple[str, ...], list[Counts]] = {}
    for row in before.rows:
        if row.start_us in position:
            found.setdefault(row.group, [Counts()] * len(starts))[position[row.start_us]] = row.counts
    for row in last.rows:
        found.setdefault(row.group, [Counts()] * len(starts))[-1] = row.counts
    return found
