"""The archive of usage: one transaction for each flush (docs/adr/0013)."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

from psycopg import AsyncCursor, sql
from sqlalchemy import TextClause, text

from ratelimit_service.decision.ports import Clock
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.failures import translate_failures
from ratelimit_service.postgres.lease import PostgresLease
from ratelimit_service.postgres.usage_partitions import Partition, create_partitions
from ratelimit_service.postgres.usage_retention import SeriesRetention, cutoffs_of, tidy
from ratelimit_service.postgres.usage_series import SeriesNumbers
from ratelimit_service.postgres.usage_session import cursor_of
from ratelimit_service.postgres.usage_tables import COUNTS, LEVELS, LIMIT_COUNTS
from ratelimit_service.usage.ports import Loss, Term
from ratelimit_service.usage.query_range import Kept
from ratelimit_service.usage.segment import CountRow, LimitRow, Segment, SegmentRef, Series

FLUSH_SECONDS: Final = 30.0
"""How long a transaction may take on the client side, beside the time for its rows."""

STATEMENT_SECONDS: Final = 10.0
"""How long a statement may take, beside the time for the transaction's rows."""

IDLE_SECONDS: Final = 5.0
"""How long the transaction may be without a statement, beside a tenth of the time for its rows."""

ROWS_PER_SECOND: Final = 1_000
"""At least. One segment is one transaction, and may have a million rows: if they had to be written within a fixed time,
it would be begun again and again, and nothing behind it would be written either."""

_SESSION: Final = text(
    "SELECT set_config('statement_timeout', :statement_timeout, true), set_config('lock_timeout', '2s', true),"
    # A process that is stopped in the middle of a transaction must not keep the lease locked.
    " set_config('idle_in_transaction_session_timeout', :idle_timeout, true)"
)
_MARK: Final = (
    "INSERT INTO usage_segments (tag, name, number, first_minute, calls, fields, flush_time)"
    " SELECT *, clock_timestamp() FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::timestamptz[], %s::bigint[],"
    " %s::bigint[]) ON CONFLICT (tag, name) DO NOTHING RETURNING tag, name"
)
_MARKED: Final = (
    "SELECT tag, name, calls FROM usage_segments JOIN unnest(%s::text[], %s::text[]) AS asked (tag, name)"
    " USING (tag, name)"
)
_CORRECT: Final = (
    "UPDATE usage_segments AS s SET calls = n.calls FROM unnest(%s::text[], %s::text[], %s::bigint[])"
    " AS n (tag, name, calls) WHERE s.tag = n.tag AND s.name = n.name AND s.calls < n.calls"
)
_NEWEST: Final = (
    "SELECT DISTINCT ON (tag) tag, name FROM usage_segments ORDER BY tag DESC, flush_time DESC, number DESC"
)
_REPORT: Final = (
    "INSERT INTO usage_losses (time, start_time, end_time, cause, calls) VALUES (clock_timestamp(), %s, %s, %s, %s)"
)
_COVER: Final = text(
    "INSERT INTO usage_coverage (complete_until) VALUES (to_timestamp(:seconds))"
    " ON CONFLICT (only_row) DO UPDATE SET complete_until = EXCLUDED.complete_until"
)


def _aggregate(
    source: sql.Composable, table: str, level: str, key: Sequence[str], counts: Sequence[str]
) -> sql.Composed:
    """Adds the rows of SOURCE, from a time on, to those of TABLE with the same bin and KEY."""
    names = sql.SQL(", ").join(map(sql.Identifier, key))
    sums: list[sql.Composable] = [sql.SQL("usage_sum({})").format(sql.Identifier(count)) for count in counts]
    additions: list[sql.Composable] = [
        sql.SQL("{0} = coalesce(t.{0}, 0) + EXCLUDED.{0}").format(sql.Identifier(count)) for count in counts
    ]
    columns = [level, *key, *counts]
    if (table, level) == ("usage", "day"):
        columns.append("hours")
        sums.append(sql.SQL("bit_or(1 << extract(hour FROM minute AT TIME ZONE 'UTC')::integer)"))
        additions.append(sql.SQL("hours = t.hours | EXCLUDED.hours"))
    return sql.SQL(
        "INSERT INTO {table} AS t ({columns})"
        " SELECT date_trunc({level}, minute, 'UTC') AS bin, {key}, {sums} FROM {source}"
        " WHERE minute >= %s GROUP BY bin, {key} ORDER BY {key}, bin"
        " ON CONFLICT ({key}, {bin}) DO UPDATE SET {additions}"
    ).format(
        table=sql.Identifier(f"{table}_{level}"),
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        level=sql.Literal(level),
        key=names,
        sums=sql.SQL(", ").join(sums),
        source=source,
        bin=sql.Identifier(level),
        additions=sql.SQL(", ").join(additions),
    )


_FLUSHED: Final = sql.Identifier("flushed")
_FLUSHED_LIMITS: Final = sql.Identifier("flushed_limits")
_JOINED: Final = sql.SQL("flushed JOIN usage_series USING (series_id)")
_INSERT: Final = sql.SQL("INSERT INTO {} SELECT * FROM {} WHERE minute >= %s")
_SERIES: Final = ("series_id",)
_LIMIT: Final = ("series_id", "limit_name")
_BY_PLAN: Final = {level: _aggregate(_JOINED, "usage_plan", level, ("plan", "domain"), COUNTS) for level in LEVELS}
_ROLL_UP: Final = {
    # Several rows of one minute and series add up when they are read.
    "minute": [_INSERT.format(sql.Identifier("usage_minute"), _FLUSHED), _BY_PLAN["minute"]],
    "hour": [_aggregate(_FLUSHED, "usage", "hour", _SERIES, COUNTS), _BY_PLAN["hour"]],
    "day": [_aggregate(_FLUSHED, "usage", "day", _SERIES, COUNTS), _BY_PLAN["day"]],
}
_ROLL_UP_LIMITS: Final = {
    "minute": [_INSERT.format(sql.Identifier("usage_limit_minute"), _FLUSHED_LIMITS)],
    "hour": [_aggregate(_FLUSHED_LIMITS, "usage_limit", "hour", _LIMIT, LIMIT_COUNTS)],
    "day": [_aggregate(_FLUSHED_LIMITS, "usage_limit", "day", _LIMIT, LIMIT_COUNTS)],
}
# Not by COPY: no timeout ends one whose client has stopped in the middle, and the lease would be locked for as long.
_WRITE: Final = (
    "INSERT INTO flushed (minute, series_id, allowed, denied, cost, shadow_denied, degraded, clamped, reserved,"
    " settled) SELECT to_timestamp(minute * 60), series_id, allowed, denied, cost, shadow_denied, degraded, clamped,"
    " reserved, settled FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],"
    " %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[]) AS f (minute, series_id, allowed, denied, cost,"
    " shadow_denied, degraded, clamped, reserved, settled)"
)
_WRITE_LIMITS: Final = (
    "INSERT INTO flushed_limits SELECT to_timestamp(minute * 60), series_id, limit_name, denied, shadow_denied FROM"
    " unnest(%s::bigint[], %s::bigint[], %s::text[], %s::bigint[], %s::bigint[])"
    " AS f (minute, series_id, limit_name, denied, shadow_denied)"
)
_MARK_USED: Final = (
    "INSERT INTO key_last_used AS t SELECT key_id, max(minute) FROM flushed JOIN usage_series USING (series_id)"
    " WHERE kind = 'key' AND allowed + denied > 0 GROUP BY key_id ORDER BY key_id"
    " ON CONFLICT (key_id) DO UPDATE SET last_used = EXCLUDED.last_used WHERE t.last_used < EXCLUDED.last_used"
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CHUNK_ROWS: Final = 20_000
"""Rows of one statement, a few megabytes."""


class PostgresUsageArchive:
    """As `usage.ports.UsageArchive` describes it. Close it at the end."""

    def __init__(self, url: str, lease: PostgresLease, kept: Kept, clock: Clock) -> None:
        """LEASE is that of the leader. Raises ValueError when the URL is malformed."""
        # Connections of its own: the limits of those that calls use are for calls.
        self._database = Database(url, transaction_seconds=FLUSH_SECONDS)
        self._lease = lease
        self._kept = kept
        self._clock = clock
        self._series = SeriesNumbers()
        self._unused = SeriesRetention(self._database, lease, self._series.forget)
        self._partitions: set[Partition] = set()

    @asynccontextmanager
    async def flushing(self, term: Term, rows: int) -> AsyncIterator["PostgresFlush"]:
        """Begin a transaction for so many ROWS. Raises StoreUnavailable and LeaseLost."""
        more = rows / ROWS_PER_SECOND
        session = _session(more)
        seconds = FLUSH_SECONDS + more
        async with self._lease.writing(self._database, term, session, seconds=seconds) as connection:
            cursor = await cursor_of(connection)
            flush = PostgresFlush(cursor, self._series, self._partitions, cutoffs_of(self._kept, self._clock.now_us()))
            yield flush
        self._series.remember(flush.numbers)
        self._partitions |= flush.partitions

    async def cover(self, term: Term, until_us: int) -> None:
        """Write down that what was counted before this time is in the archive. Raises StoreUnavailable and LeaseLost.

        It goes back if the store does, to segments that it had before.
        """
        session = _session()
        async with self._lease.writing(self._database, term, session) as connection:
            await connection.execute(_COVER, {"seconds": until_us / 1e6})

    async def newest(self) -> Mapping[str, SegmentRef]:
        """Return the segment of each tag that was flushed last. Raises StoreUnavailable.

        Forgets what is in memory of the tables: another process may have led meanwhile.
        """
        self._series.forget()
        self._partitions.clear()
        async with self._database.reading() as connection:
            cursor = await cursor_of(connection)
            await cursor.execute("SELECT set_config('statement_timeout', '10s', true)")
            await cursor.execute(_NEWEST)
            return {tag: SegmentRef(tag, name) for tag, name in await cursor.fetchall()}

    async def tidy(self, term: Term) -> None:
        """Create partitions ahead, drop what is older than its retention, and delete series without counts.

        Raises StoreUnavailable and LeaseLost.
        """
        changed = await tidy(self._database, self._lease, term, self._kept, self._clock.now_us())
        if changed:
            self._partitions.clear()
        await self._unused.delete_unused(term)

    async def close(self) -> None:
        """Close the connections."""
        await self._database.close()


class PostgresFlush:
    """The transaction of one flush."""

    def __init__(
        self,
        cursor: AsyncCursor,
        series: SeriesNumbers,
        partitions: set[Partition],
        cutoffs: Mapping[str, datetime],
    ) -> None:
        """PARTITIONS are known to exist; of each level, what is before its time in CUTOFFS is not kept any more."""
        self._cursor = cursor
        self._series = series
        self._known = partitions
        self._cutoffs = cutoffs
        self.numbers: dict[Series, int] = {}
        """The numbers of the series that it wrote."""
        self.partitions: set[Partition] = set()
        """The partitions that it wrote to."""

    async def mark(self, segments: Sequence[Segment]) -> Mapping[SegmentRef, int]:
        """Mark SEGMENTS as flushed. Returns those that were before, with the calls that they had then."""
        with translate_failures():
            columns = [
                [segment.ref.tag for segment in segments],
                [segment.ref.name for segment in segments],
                [segment.ref.number for segment in segments],
                [_time(segment.ref.first_minute) for segment in segments],
                [segment.calls for segment in segments],
                [segment.fields for segment in segments],
            ]
            await self._cursor.execute(_MARK, columns)
            fresh = {SegmentRef(tag, name) for tag, name in await self._cursor.fetchall()}
            known = [segment for segment in segments if segment.ref not in fresh]
            if not known:
                return {}
            names = [[segment.ref.tag for segment in known], [segment.ref.name for segment in known]]
            await self._cursor.execute(_MARKED, names)
            marked = {SegmentRef(tag, name): calls for tag, name, calls in await self._cursor.fetchall()}
            if any(segment.calls > marked[segment.ref] for segment in known):
                await self._cursor.execute(_CORRECT, [*names, [segment.calls for segment in known]])
            return marked

    async def add(self, rows: Sequence[CountRow], limit_rows: Sequence[LimitRow]) -> None:
        """Add counts to those of their minutes, hours and days, and to when their keys were last used."""
        if not rows:
            return
        with translate_failures():
            await self._create_partitions({row.minute for row in rows})
            self.numbers = await self._series.find(self._cursor, {row.series for row in rows})
            await self._write_rows(rows)
            for level in LEVELS:
                await self._roll_up(level, _ROLL_UP)
            await self._cursor.execute(_MARK_USED, prepare=False)
            if limit_rows:
                await self._write_limit_rows(limit_rows)
                for level in LEVELS:
                    await self._roll_up(level, _ROLL_UP_LIMITS)

    async def report(self, losses: Sequence[Loss]) -> None:
        """Write down what was lost."""
        with translate_failures():
            values = [(_moment(loss.start_us), _moment(loss.end_us), loss.cause, loss.calls) for loss in losses]
            await self._cursor.executemany(_REPORT, values)

    async def _create_partitions(self, minutes: Iterable[int]) -> None:
        times = [_time(minute) for minute in minutes]
        needed = {
            Partition.at(level, time) for level in LEVELS for time in times if time >= self._cutoffs[level]
        } - self._known
        await create_partitions(self._cursor, needed)
        self.partitions |= needed

    async def _write_rows(self, rows: Sequence[CountRow]) -> None:
        await self._cursor.execute("CREATE TEMP TABLE flushed (LIKE usage_minute) ON COMMIT DROP")
        for at in range(0, len(rows), _CHUNK_ROWS):
            minutes, series, *counts = zip(*rows[at : at + _CHUNK_ROWS], strict=True)
            columns = [minutes, map(self.numbers.__getitem__, series), *counts]
            await self._cursor.execute(_WRITE, [_array(column) for column in columns], prepare=False)

    async def _write_limit_rows(self, rows: Sequence[LimitRow]) -> None:
        await self._cursor.execute("CREATE TEMP TABLE flushed_limits (LIKE usage_limit_minute) ON COMMIT DROP")
        for at in range(0, len(rows), _CHUNK_ROWS):
            minutes, series, limits, *counts = zip(*rows[at : at + _CHUNK_ROWS], strict=True)
            columns = [_array(minutes), _array(map(self.numbers.__getitem__, series)), list(limits)]
            await self._cursor.execute(_WRITE_LIMITS, [*columns, *map(_array, counts)], prepare=False)

    async def _roll_up(self, level: str, statements: Mapping[str, Sequence[sql.Composed]]) -> None:
        for statement in statements[level]:
            # Not prepared: what the temporary table's name refers to is another table in each transaction.
            await self._cursor.execute(statement, (self._cutoffs[level],), prepare=False)


def _session(more: float = 0.0) -> TextClause:
    """The limits of a transaction that may take so many MORE seconds for its rows."""
    return _SESSION.bindparams(
        statement_timeout=f"{round((STATEMENT_SECONDS + more) * 1_000)}ms",
        idle_timeout=f"{round((IDLE_SECONDS + more / 10) * 1_000)}ms",
    )


def _array(numbers: Iterable[int]) -> str:
    """The literal of an array: several times as fast as the driver's own."""
    return "{" + ",".join(map(str, numbers)) + "}"


def _time(minute: int) -> datetime:
    return _EPOCH + timedelta(minutes=minute)


def _moment(time_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_us)
