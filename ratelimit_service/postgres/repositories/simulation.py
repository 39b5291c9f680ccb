"""Counts in Postgres, as they are replayed against other limits."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy import ARRAY, BigInteger, Text, TextClause, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.decision.limit import Level as LimitLevel
from ratelimit_service.decision.reason import Reason
from ratelimit_service.decision.record import Override
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.failures import raise_unavailable
from ratelimit_service.postgres.repositories.overrides import read_override_rows, to_overrides
from ratelimit_service.postgres.tables import Microseconds
from ratelimit_service.usage.query_range import DAY, Level
from ratelimit_service.usage.replay import Counted, Series
from ratelimit_service.usage.simulation import Listed

REFUSALS: Final = (Reason.KEY_EXPIRED.name, Reason.KEY_REVOKED.name, Reason.KEY_SUSPENDED.name)
"""In place of a limit's name: calls that were denied because of their key, whatever its limits."""

_DAYS_FROM: Final = 3 * DAY
"""Of a range longer than this, the sums by day are read to list its series."""

_SESSION: Final = text(
    "SELECT set_config('jit', 'off', true), set_config('work_mem', '32MB', true),"
    " set_config('plan_cache_mode', 'force_custom_plan', true)"
)
_IDS: Final = bindparam("ids", type_=ARRAY(BigInteger))
_START: Final = bindparam("start", type_=Microseconds)
_END: Final = bindparam("end", type_=Microseconds)

_SERIES: Final = {
    level: text(f"""
        SELECT s.series_id, s.key_id, s.resource, s.subject, c.allowed, c.cost, c.bins
        FROM (
            SELECT h.series_id, sum(h.allowed)::bigint AS allowed, sum(h.cost)::bigint AS cost, count(*) AS bins
            FROM usage_{level} h JOIN usage_series f USING (series_id)
            WHERE f.kind = 'key' AND f.plan = :plan AND h.{level} >= :start AND h.{level} < :end
            GROUP BY h.series_id
        ) c JOIN usage_series s USING (series_id)
        ORDER BY s.subject, s.series_id LIMIT :count
    """).bindparams(_START, _END)  # noqa: S608  no caller's text
    for level in (Level.HOUR, Level.DAY)
}


def _counted(level: Level, number: str) -> str:
    """The counts of series between two times, less the calls that were refused because of their key."""
    return f"""
        SELECT series_id, {number}, sum(allowed)::bigint, sum(denied)::bigint, sum(cost)::bigint
        FROM (
            SELECT series_id, {level} AS bin, allowed, denied, cost FROM usage_{level}
            WHERE series_id = ANY(:ids) AND {level} >= :start AND {level} < :end
            UNION ALL
            SELECT series_id, {level}, 0, -denied, 0 FROM usage_limit_{level}
            WHERE series_id = ANY(:ids) AND {level} >= :start AND {level} < :end AND limit_name = ANY(:refusals)
        ) c
    """  # noqa: S608  no caller's text


_REFUSALS: Final = bindparam("refusals", REFUSALS, type_=ARRAY(Text))
_COUNTS: Final = {
    level: text(
        _counted(level, f"(extract(epoch FROM bin) / {level.us // 1_000_000})::bigint")
        + "GROUP BY series_id, bin ORDER BY bin"
    ).bindparams(_IDS, _START, _END, _REFUSALS)
    for level in (Level.MINUTE, Level.HOUR)
}
_SUMS: Final = {
    level: text(f"{_counted(level, '0')} GROUP BY series_id").bindparams(_IDS, _START, _END, _REFUSALS)
    for level in (Level.HOUR, Level.DAY)
}
_DENIALS: Final = {
    level: text(f"""
        SELECT l.limit_name, sum(l.denied)::bigint, sum(l.shadow_denied)::bigint
        FROM usage_limit_{level} l JOIN usage_series s USING (series_id)
        WHERE s.kind = 'key' AND s.plan = :plan AND l.{level} >= :start AND l.{level} < :end
        GROUP BY l.limit_name
    """).bindparams(_START, _END)  # noqa: S608  no caller's text
    for level in (Level.MINUTE, Level.HOUR)
}


class PostgresSimulationSource:
    """As `usage.simulation.SimulationSource` describes it. Give it a pool that decisions do not wait for."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def reading(self) -> AsyncIterator["PostgresSimulation"]:
        """Begin a transaction that reads one snapshot."""
        with raise_unavailable("try again, or choose a shorter range"):
            async with self._database.reading() as connection:
                await connection.execute(_SESSION)
                yield PostgresSimulation(connection)


class PostgresSimulation:
    """As `usage.simulation.SimulationSnapshot` describes it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def series(self, plan: str, start_us: int, end_us: int, *, count: int) -> Sequence[Listed]:
        """Read the series with usage in the range, by subject."""
        level = Level.DAY if end_us - start_us > _DAYS_FROM else Level.HOUR
        start = start_us // level.us * level.us
        values = {"plan": plan, "start": start, "end": end_us, "count": count}
        rows = await self._connection.execute(_SERIES[level], values)
        hours = level.us // Level.HOUR.us
        return [Listed(Series(*row[:6]), row[6] * hours) for row in rows]

    async def overrides(
        self, subjects: Collection[str], key_ids: Collection[str]
    ) -> tuple[Mapping[str, Sequence[Override]], Mapping[str, Sequence[Override]]]:
        """Read the overrides of subjects and of keys."""
        of_subjects = await read_override_rows(self._connection, LimitLevel.SUBJECT, subjects)
        of_keys = await read_override_rows(self._connection, LimitLevel.KEY, key_ids)
        return (
            {subject: to_overrides(rows) for subject, rows in of_subjects.items()},
            {key_id: to_overrides(rows) for key_id, rows in of_keys.items()},
        )

    async def counts(self, series_ids: Collection[int], level: Level, start_us: int, end_us: int) -> Sequence[Counted]:
        """Read counts by time."""
        return await self._read(_COUNTS[level], series_ids, start_us, end_us)

    async def sums(self, series_ids: Collection[int], start_us: int, end_us: int) -> Sequence[Counted]:
        """Read whole days by day, and the rest by hour."""
        days_from = -(-start_us // DAY) * DAY
        days_until = max(end_us // DAY * DAY, days_from)
        found = list(await self._read(_SUMS[Level.HOUR], series_ids, start_us, min(days_from, end_us)))
        if days_from < days_until:
            found += await self._read(_SUMS[Level.DAY], series_ids, days_from, days_until)
        if days_until < end_us:
            found += await self._read(_SUMS[Level.HOUR], series_ids, days_until, end_us)
        return found

    async def denials(self, plan: str, level: Level, start_us: int, end_us: int) -> Mapping[str, tuple[int, int]]:
        """Read how many calls each limit denied, and would have denied in shadow mode."""
        values = {"plan": plan, "start": start_us, "end": end_us}
        rows = await self._connection.execute(_DENIALS[level], values)
        return {name: (denied, shadow_denied) for name, denied, shadow_denied in rows}

    async def _read(
        self, statement: TextClause, series_ids: Collection[int], start_us: int, end_us: int
    ) -> Sequence[Counted]:
        if start_us >= end_us:
            return []
        values = {"ids": list(series_ids), "start": start_us, "end": end_us}
        rows = await self._connection.execute(statement, values)
        return [Counted._make(row) for row in rows]
