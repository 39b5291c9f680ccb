"""Usage in Postgres, for questions.

Three families of tables have the counts: those of each plan and domain (small), those of each series, and those of each
series and limit. The smallest family that can answer is read, on the level that the range says. A series has its names
in `usage_series`; its counts are summed by number first, and only the sums meet the names.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    BindParameter,
    ColumnElement,
    FromClause,
    Interval,
    Select,
    and_,
    any_,
    bindparam,
    cast,
    false,
    func,
    literal,
    null,
    or_,
    select,
    text,
    true,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.failures import raise_unavailable
from ratelimit_service.postgres.tables import Microseconds
from ratelimit_service.postgres.usage_tables import (
    COUNTS,
    LIMIT_COUNTS,
    counts_by,
    coverage,
    key_last_used,
    limit_counts_by,
    losses,
    plan_counts_by,
    series,
)
from ratelimit_service.usage.query import Counts, Groups, Loss, UsageRow
from ratelimit_service.usage.query_range import DAY, HOUR, Level, TimeRange
from ratelimit_service.usage.query_request import OF_KEYS, OF_RULES, Dimension, Measure, UsageRequest

MAX_LISTED: Final = 2_000
"""Maximum series that are looked up by number. More are found by reading the counts of all."""

MAX_BY_DAYS: Final = 100
"""Maximum groups that are searched for by their days."""

MAX_BOUNDS: Final = 1_000
"""Groups of which it is read how many counts they can have at most."""

MAX_FEW: Final = 50_000
"""Maximum series, each times the bins, of which all groups are read at once."""

_SESSION: Final = text(
    "SELECT set_config('jit', 'off', true), set_config('work_mem', '32MB', true),"
    " set_config('plan_cache_mode', 'force_custom_plan', true), set_config('random_page_cost', '1.1', true),"
    " set_config('max_parallel_workers_per_gather', '0', true)"
)
"""Compiling takes longer than these queries; plans must know the range to leave out partitions; what is asked for is
in memory or on a disk without heads; and one question must not take all cores."""

_NAMES: Final = {
    Dimension.KEY: series.c.key_id,
    Dimension.SUBJECT: series.c.subject,
    Dimension.PLAN: series.c.plan,
    Dimension.RESOURCE: series.c.resource,
    Dimension.DOMAIN: series.c.domain,
    Dimension.RULE: series.c.rule,
}
_SUMMED: Final = {Dimension.PLAN, Dimension.DOMAIN}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_LOSSES: Final = 100

_Best = tuple[Sequence[tuple[tuple[str, ...], Counts]], int]
"""The best groups with their counts, and the number of all."""


class _Family(Enum):
    """Which tables are read."""

    SUMMED = auto()
    SERIES = auto()
    LIMITS = auto()


class PostgresUsageSource:
    """As `usage.query.UsageSource` describes it. Give it a small pool of its own: a heavy query holds a connection."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def reading(self) -> AsyncIterator["PostgresUsage"]:
        """Begin a transaction that reads one snapshot."""
        with raise_unavailable("try again, or ask for less"):
            async with self._database.reading() as connection:
                await connection.execute(_SESSION)
                yield PostgresUsage(connection)


class PostgresUsage:
    """As `usage.query.UsageSnapshot` describes it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._listed: tuple[UsageRequest, Mapping[int, tuple[str, ...]] | None] | None = None

    async def few(self, request: UsageRequest, within: TimeRange) -> Sequence[UsageRow] | None:
        """Read the counts of each group and bin. None if they are made of more than MAX_FEW."""
        if _family(request) is _Family.SUMMED or not request.where.dimensions - {Dimension.LIMIT}:
            return None
        listed = await self._list(request)
        if listed is None or len(listed) * within.bins > MAX_FEW:
            return None
        return await self.bins(request, within)

    async def groups(
        self, request: UsageRequest, within: TimeRange, *, after: tuple[str, ...] | None, count: int
    ) -> Groups:
        """Read groups with their counts, and the sum over all of them."""
        if request.top and _family(request) is _Family.SERIES and _has_summed_total(request):
            return await self._top(request, within)
        counted = await self._counted(request, within, by_bin=False)
        if counted is None:
            return Groups([], Counts(), 0)
        rows = (await self._connection.execute(_ranked(counted, request, after, count))).all()
        width = len(request.group_by)
        found = [(tuple(row[:width]), Counts(*row[width : width + len(COUNTS)])) for row in rows]
        if not rows:
            return Groups([], Counts(), 0)
        *total, number = rows[0][width + len(COUNTS) :]
        return Groups(found, Counts(*total), number)

    async def _top(self, request: UsageRequest, within: TimeRange) -> Groups:
        """Find the best groups by one measure, quicker than by summing all counts, and read only their counts."""
        whole = replace(within, step_us=0)
        best, number = await self._best_by_days(request, whole) or await self._best(request, whole)
        if not number:
            return Groups([], Counts(), 0)
        [total] = await self.bins(request.together(), whole)
        return Groups(best, total.counts, number)

    async def _best(self, request: UsageRequest, whole: TimeRange) -> _Best:
        """Find the best groups by adding up the measure of all."""
        names = _measured(request)
        statement = _from_series(request, whole, None, family=_Family.SERIES, by_bin=False, names=names)
        measures, number = await self._highest(request, statement, request.top)
        counts = await self._exactly(request, whole, list(measures))
        return [(group, counts[group]) for group in measures if group in counts], number

    async def _best_by_days(self, request: UsageRequest, whole: TimeRange) -> _Best | None:
        """Find the best groups of some hours without reading the hours of all. None if that is not possible.

        No group has more in some hours than in their days. So those with most in the days are counted exactly, until no
        other can have as much as the last of the best. Which groups there are at all is known from the hours that a day
        has.
        """
        if whole.level is not Level.HOUR or request.order_by is Measure.COST or request.top > MAX_BY_DAYS:
            return None
        days = replace(
            whole, start_us=whole.start_us // DAY * DAY, end_us=-(-whole.end_us // DAY) * DAY, level=Level.DAY
        )
        names = _measured(request)
        statement = _from_series(
            request, days, None, family=_Family.SERIES, by_bin=False, names=names, also=_has_hours(whole)
        )
        bounds, number = await self._highest(request, statement, MAX_BOUNDS)
        groups = list(bounds)
        first = 2 * request.top + 20
        counts = await self._exactly(request, whole, groups[:first])
        least = _last(counts, request)
        others = [group for group in groups[first:] if bounds[group] >= least]
        if len(groups) < number and bounds[groups[-1]] >= least:
            return None
        if others:
            counts |= await self._exactly(request, whole, others)
        best = sorted(counts.items(), key=lambda each: (-each[1].get(request.order_by), each[0]))
        return best[: request.top], number

    async def _highest(
        self, request: UsageRequest, statement: Select[Any], count: int
    ) -> tuple[dict[tuple[str, ...], int], int]:
        """The COUNT groups with the highest `measure` of STATEMENT, in this order, and the number of all groups."""
        ranked = statement.cte("groups")
        values = [ranked.c[dimension.value] for dimension in request.group_by]
        number = select(func.count()).select_from(ranked).scalar_subquery()
        highest = select(*values, ranked.c.measure, number).order_by(ranked.c.measure.desc(), *values).limit(count)
        rows = (await self._connection.execute(highest)).all()
        return {tuple(row[:-2]): row[-2] for row in rows}, rows[0][-1] if rows else 0

    async def _exactly(
        self, request: UsageRequest, whole: TimeRange, groups: Sequence[tuple[str, ...]]
    ) -> dict[tuple[str, ...], Counts]:
        """The counts of GROUPS."""
        if not groups:
            return {}
        wanted = set(groups)
        rows = await self.bins(request.narrowed(groups), whole)
        return {row.group: row.counts for row in rows if row.group in wanted}

    async def bins(self, request: UsageRequest, within: TimeRange) -> Sequence[UsageRow]:
        """Read the counts of each group and bin."""
        by_bin = bool(within.step_us)
        listed = None if _family(request) is _Family.SUMMED else await self._list(request)
        if listed is not None:
            found = await self._bins_of(request, within, listed)
        else:
            counted = await self._counted(request, within, by_bin=by_bin)
            rows = (await self._connection.execute(counted)).all() if counted is not None else ()
            width = len(request.group_by)
            found = [
                UsageRow(
                    row[-1] if by_bin else within.start_us,
                    tuple(row[:width]),
                    Counts(*row[width : width + len(COUNTS)]),
                )
                for row in rows
            ]
        return sorted((row for row in found if any(row.counts)), key=lambda row: row.start_us)

    async def _bins_of(
        self, request: UsageRequest, within: TimeRange, listed: Mapping[int, tuple[str, ...]]
    ) -> list[UsageRow]:
        """Read the counts of series whose numbers and groups are known: no text is read, but names of limits."""
        if not listed:
            return []
        places = {group: place for place, group in enumerate(dict.fromkeys(listed.values()))}
        members = [places[group] for group in listed.values()]
        statement = _from_numbers(request, within, list(listed), members if len(places) > 1 else None)
        rows = (await self._connection.execute(statement)).all()
        groups = list(places)
        limit_at = request.group_by.index(Dimension.LIMIT) if Dimension.LIMIT in request.group_by else None
        found = []
        for *counts, start, place, limit in rows:
            group = groups[place or 0]
            if limit_at is not None:
                group = (*group[:limit_at], limit, *group[limit_at:])
            found.append(UsageRow(within.start_us if start is None else start, group, Counts(*counts)))
        return found

    async def complete_until(self) -> int | None:
        """Return the time that the flush wrote down."""
        return (await self._connection.execute(select(coverage.c.complete_until))).scalar()

    async def losses(self, within: TimeRange) -> Sequence[Loss]:
        """Read the losses that overlap the range."""
        statement = (
            select(losses.c.start_time, losses.c.end_time, losses.c.cause, losses.c.calls)
            .where(losses.c.end_time > within.start_us, losses.c.start_time < within.end_us)
            .order_by(losses.c.end_time.desc(), losses.c.loss_id.desc())
            .limit(_MAX_LOSSES)
        )
        return [Loss(*row) for row in await self._connection.execute(statement)]

    async def last_used(self, key_ids: Collection[str]) -> Mapping[str, int]:
        """Return when each of the keys was last used."""
        statement = select(key_last_used.c.key_id, key_last_used.c.last_used).where(
            key_last_used.c.key_id.in_(list(key_ids))
        )
        return {row.key_id: row.last_used for row in await self._connection.execute(statement)}

    async def _counted(self, request: UsageRequest, within: TimeRange, *, by_bin: bool) -> Select[Any] | None:
        """Select each group's values, its counts, and the bin if it is asked for. None if there is no such series."""
        family = _family(request)
        if family is _Family.SUMMED:
            return _from_summed(request, within, by_bin=by_bin)
        listed = await self._list(request)
        if listed is not None and not listed:
            return None
        return _from_series(request, within, None if listed is None else list(listed), family=family, by_bin=by_bin)

    async def _list(self, request: UsageRequest) -> Mapping[int, tuple[str, ...]] | None:
        """Look up the numbers of the series that match, and the group of each but for its limit.

        None if no filter chooses series, or if there are more than MAX_LISTED.
        """
        if not request.where.dimensions - {Dimension.LIMIT}:
            return None
        if self._listed is None or self._listed[0] is not request:
            names = [_NAMES[dimension] for dimension in request.group_by if dimension is not Dimension.LIMIT]
            statement = select(series.c.series_id, *names).where(_matches(request)).limit(MAX_LISTED + 1)
            rows = (await self._connection.execute(statement)).all()
            listed = {row[0]: tuple(row[1:]) for row in rows}
            self._listed = request, listed if len(listed) <= MAX_LISTED else None
        return self._listed[1]


def _family(request: UsageRequest) -> _Family:
    if request.by_limit:
        return _Family.LIMITS
    return _Family.SUMMED if request.dimensions <= _SUMMED else _Family.SERIES


def _has_summed_total(request: UsageRequest) -> bool:
    """Whether the sum over all groups is in the tables of plans and domains."""
    return request.where.outcome is None and request.where.dimensions <= _SUMMED


def _measured(request: UsageRequest) -> Mapping[str, Callable[[FromClause], ColumnElement[int]]]:
    """The measure that groups are ranked by, under the name `measure`."""
    measure = request.order_by
    if measure is Measure.CALLS:
        return {"measure": lambda table: table.c.allowed + table.c.denied}
    return {"measure": lambda table: table.c[measure.value]}


def _from_summed(request: UsageRequest, within: TimeRange, *, by_bin: bool) -> Select[Any]:
    table = plan_counts_by[within.level.value]
    columns: dict[Dimension, ColumnElement[str]] = {Dimension.PLAN: table.c.plan, Dimension.DOMAIN: table.c.domain}
    conditions = [_in(columns[dimension], request.where.get(dimension)) for dimension in request.where.dimensions]
    if request.dimensions & OF_KEYS:
        conditions.append(table.c.domain == "")
    if request.dimensions & OF_RULES:
        conditions.append(table.c.plan == "")
    keys: list[ColumnElement[Any]] = [columns[dimension].label(dimension.value) for dimension in request.group_by]
    bins = [_bin(table.c[within.level.value], within)] if by_bin else []
    sums = [_sum(table.c[name], name) for name in COUNTS]
    statement = select(*keys, *sums, *bins).where(_inside(table, within), *conditions)
    return statement.group_by(*keys, *bins) if keys or bins else statement.having(func.count() > 0)


def _from_series(  # noqa: PLR0913  what is read, of what, and how far it is summed
    request: UsageRequest,
    within: TimeRange,
    numbers: list[int] | None,
    *,
    family: _Family,
    by_bin: bool,
    names: Mapping[str, Callable[[FromClause], ColumnElement[int]]] | None = None,
    also: ColumnElement[bool] | None = None,
) -> Select[Any]:
    """Select groups; with ALSO, a condition on the table of counts."""
    names = names or _ALL
    by_number = _by_number(request, within, numbers, family=family, by_bin=by_bin, names=names)
    counted = (by_number if also is None else by_number.where(also)).cte("counted")
    keys = [
        (counted.c.limit_name if dimension is Dimension.LIMIT else _NAMES[dimension]).label(dimension.value)
        for dimension in request.group_by
    ]
    bins = [counted.c.bin] if by_bin else []
    statement = select(*keys, *(_sum(counted.c[name], name) for name in names), *bins)
    if request.dimensions - {Dimension.LIMIT}:
        statement = statement.select_from(counted.join(series, series.c.series_id == counted.c.series_id))
        statement = statement.where(_matches(request) if numbers is None else _one_of(series.c.series_id, numbers))
    else:
        statement = statement.select_from(counted)
    return statement.group_by(*keys, *bins) if keys or bins else statement.having(func.count() > 0)


def _from_numbers(
    request: UsageRequest, within: TimeRange, numbers: list[int], places: list[int] | None
) -> Select[Any]:
    """Select the counts of series, their bin, their place in PLACES, and the limit."""
    by_limit = request.by_limit
    table = (limit_counts_by if by_limit else counts_by)[within.level.value]
    sums: list[ColumnElement[Any]] = [
        _sum(table.c[name], name) if not by_limit or name in LIMIT_COUNTS else literal(0).label(name) for name in COUNTS
    ]
    conditions = [_inside(table, within), _one_of(table.c.series_id, numbers)]
    start: ColumnElement[Any] = null().label("bin")
    place: ColumnElement[Any] = null().label("place")
    limit: ColumnElement[Any] = null().label("limit_name")
    keys: list[ColumnElement[Any]] = []
    if within.step_us:
        start = _bin(table.c[within.level.value], within)
        keys.append(start)
    source: FromClause = table
    if places is not None:
        members = (
            func.unnest(_array(numbers), _array(places))
            .table_valued("series_id", "place")
            .render_derived(name="members")
        )
        source = table.join(members, members.c.series_id == table.c.series_id)
        place = members.c.place
        keys.append(place)
    if Dimension.LIMIT in request.group_by:
        limit = table.c.limit_name
        keys.append(limit)
    if Dimension.LIMIT in request.where.dimensions:
        conditions.append(_in(table.c.limit_name, request.where.get(Dimension.LIMIT)))
    statement = select(*sums, start, place, limit).select_from(source).where(*conditions)
    return statement.group_by(*keys) if keys else statement.having(func.count() > 0)


def _by_number(  # noqa: PLR0913  as above
    request: UsageRequest,
    within: TimeRange,
    numbers: list[int] | None,
    *,
    family: _Family,
    by_bin: bool,
    names: Mapping[str, Callable[[FromClause], ColumnElement[int]]],
) -> Select[Any]:
    """Sum the counts of each series, limit and bin, as far as these are needed."""
    by_limit = family is _Family.LIMITS
    table = (limit_counts_by if by_limit else counts_by)[within.level.value]
    keys: list[ColumnElement[Any]] = [table.c.series_id]
    conditions: list[ColumnElement[bool]] = [_inside(table, within)]
    if numbers is not None:
        conditions.append(_one_of(table.c.series_id, numbers))
    elif request.where.dimensions - {Dimension.LIMIT}:
        conditions.append(table.c.series_id.in_(select(series.c.series_id).where(_matches(request))))
    if Dimension.LIMIT in request.group_by:
        keys.append(table.c.limit_name)
    if Dimension.LIMIT in request.where.dimensions:
        conditions.append(_in(table.c.limit_name, request.where.get(Dimension.LIMIT)))
    bins = [_bin(table.c[within.level.value], within)] if by_bin else []
    sums = [
        _sum(column(table), name) if not by_limit or name in LIMIT_COUNTS else cast(literal(0), BigInteger).label(name)
        for name, column in names.items()
    ]
    return select(*keys, *sums, *bins).where(*conditions).group_by(*keys, *bins)


def _ranked(counted: Select[Any], request: UsageRequest, after: tuple[str, ...] | None, count: int) -> Select[Any]:
    """Select at most COUNT groups, each with the sums over all groups and their number."""
    groups = counted.subquery("groups")
    totals = [func.usage_sum(groups.c[name], type_=BigInteger).over().label(f"total_{name}") for name in COUNTS]
    every = select(groups, *totals, func.count().over().label("number"))
    outcome = request.where.outcome
    every = every.where(groups.c[outcome.value] > 0 if outcome else true())
    found = every.subquery("found")
    values = [found.c[dimension.value] for dimension in request.group_by]
    statement = select(found).limit(count)
    if request.top:
        measure = request.order_by
        order = found.c.allowed + found.c.denied if measure is Measure.CALLS else found.c[measure.value]
        return statement.order_by(order.desc(), *values)
    if after is not None:
        statement = statement.where(tuple_(*values) > tuple_(*(literal(value) for value in after)))
    return statement.order_by(*values)


def _matches(request: UsageRequest) -> ColumnElement[bool]:
    """The condition on `series` that the filters make, all but that on the limit."""
    conditions = [
        _in(_NAMES[dimension], request.where.get(dimension))
        for dimension in sorted(request.where.dimensions - {Dimension.LIMIT})
    ]
    if request.dimensions & OF_KEYS:
        conditions.append(series.c.kind == text("'key'"))
    if request.dimensions & OF_RULES:
        conditions.append(series.c.kind == text("'rule'"))
    return and_(true(), *conditions)


def _inside(table: FromClause, within: TimeRange) -> ColumnElement[bool]:
    time = table.c[within.level.value]
    return and_(time >= within.start_us, time < within.end_us)


def _in(column: ColumnElement[str], values: Sequence[str]) -> ColumnElement[bool]:
    return column == values[0] if len(values) == 1 else column.in_(values) if values else false()


def _one_of(column: ColumnElement[int], numbers: Sequence[int]) -> ColumnElement[bool]:
    return column == any_(_array(numbers))


def _array(numbers: Sequence[int]) -> BindParameter[Any]:
    return bindparam(None, numbers, type_=ARRAY(BigInteger))


def _has_hours(within: TimeRange) -> ColumnElement[bool]:
    """Whether a day has any of the hours of the range."""
    days = range(within.start_us // DAY * DAY, within.end_us, DAY)
    day, hours = counts_by[Level.DAY.value].c.day, counts_by[Level.DAY.value].c.hours
    wanted = {start: sum(1 << at for at in range(24) if _has(within, start + at * HOUR)) for start in days}
    return or_(*(and_(day == start, hours.op("&")(mask) != 0) for start, mask in wanted.items()))


def _has(within: TimeRange, time_us: int) -> bool:
    return within.start_us <= time_us < within.end_us


def _last(counts: Mapping[tuple[str, ...], Counts], request: UsageRequest) -> int:
    """The measure of the last of the best groups; 0 if there are fewer."""
    measures = sorted((each.get(request.order_by) for each in counts.values()), reverse=True)
    return measures[request.top - 1] if len(measures) >= request.top else 0


def _column(name: str) -> Callable[[FromClause], ColumnElement[int]]:
    return lambda table: table.c[name]


_ALL: Final = {name: _column(name) for name in COUNTS}
"""Every count, as a column of a table."""


def _bin(time: ColumnElement[int], within: TimeRange) -> ColumnElement[int]:
    if within.step_us == within.level.us:
        return time.label("bin")
    step = bindparam(None, timedelta(microseconds=within.step_us), type_=Interval)
    origin = bindparam(None, 0, type_=Microseconds)
    return func.date_bin(step, time, origin, type_=Microseconds).label("bin")


def _sum(column: ColumnElement[int], name: str) -> ColumnElement[int]:
    return func.coalesce(func.usage_sum(column), 0, type_=BigInteger).label(name)
