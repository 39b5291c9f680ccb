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
    select,
    text,
    true,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.errors import Unavailable
from ratelimit_service.postgres.database import Database
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
from ratelimit_service.usage.query_range import TimeRange
from ratelimit_service.usage.query_request import OF_KEYS, OF_RULES, Dimension, Measure, UsageRequest

MAX_LISTED: Final = 2_000
"""Maximum series that are looked up by number. More are found by reading the counts of all."""

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
        try:
            async with self._database.reading() as connection:
                await connection.execute(_SESSION)
                yield PostgresUsage(connection)
        except StoreUnavailable as error:
            raise Unavailable(f"{error}; try again, or ask for less", reason="POLICY_STORE_UNAVAILABLE") from error


class PostgresUsage:
    """As `usage.query.UsageSnapshot` describes it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def few(self, request: UsageRequest, within: TimeRange) -> Sequence[UsageRow] | None:
        """Read the counts of each group and bin. None if they are made of more than MAX_FEW."""
        if _family(request) is _Family.SUMMED or not request.where.dimensions - {Dimension.LIMIT}:
            return None
        numbers = await self._numbers(request)
        if numbers is None or len(numbers) * within.bins > MAX_FEW:
            return None
        return await self.bins(request, within) if numbers else []

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
        """Rank all groups by one measure, which is quicker than to sum all counts, and read those of the best alone."""
        statement = _from_series(request, within, None, family=_Family.SERIES, by_bin=False, names=_measured(request))
        ranked = statement.subquery("groups")
        values = [ranked.c[dimension.value] for dimension in request.group_by]
        best = select(*values, func.count().over()).order_by(ranked.c.measure.desc(), *values).limit(request.top)
        rows = (await self._connection.execute(best)).all()
        if not rows:
            return Groups([], Counts(), 0)
        groups = [tuple(row[:-1]) for row in rows]
        whole = replace(within, step_us=0)
        counts = {row.group: row.counts for row in await self.bins(request.narrowed(groups), whole)}
        [total] = await self.bins(request.together(), whole)
        return Groups([(group, counts.get(group, Counts())) for group in groups], total.counts, rows[0][-1])

    async def bins(self, request: UsageRequest, within: TimeRange) -> Sequence[UsageRow]:
        """Read the counts of each group and bin."""
        counted = await self._counted(request, within, by_bin=bool(within.step_us))
        if counted is None:
            return []
        rows = (await self._connection.execute(counted)).all()
        width = len(request.group_by)
        starts = [row[-1] if within.step_us else within.start_us for row in rows]
        found = [
            UsageRow(start_us, tuple(row[:width]), Counts(*row[width : width + len(COUNTS)]))
            for start_us, row in zip(starts, rows, strict=True)
        ]
        return sorted((row for row in found if any(row.counts)), key=lambda row: row.start_us)

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
        numbers = None
        if request.where.dimensions - {Dimension.LIMIT}:
            numbers = await self._numbers(request)
            if numbers is not None and not numbers:
                return None
        return _from_series(request, within, numbers, family=family, by_bin=by_bin)

    async def _numbers(self, request: UsageRequest) -> list[int] | None:
        """Look up the numbers of the series that match. None if there are more than MAX_LISTED."""
        statement = select(series.c.series_id).where(_matches(request)).limit(MAX_LISTED + 1)
        found = list(await self._connection.scalars(statement))
        return found if len(found) <= MAX_LISTED else None


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
) -> Select[Any]:
    names = names or _ALL
    counted = _by_number(request, within, numbers, family=family, by_bin=by_bin, names=names).cte("counted")
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
    totals = [cast(func.sum(groups.c[name]).over(), BigInteger).label(f"total_{name}") for name in COUNTS]
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
    return column == any_(bindparam(None, numbers, type_=ARRAY(BigInteger)))


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
    return cast(func.coalesce(func.sum(column), 0), BigInteger).label(name)
