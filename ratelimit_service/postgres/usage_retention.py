"""The retention of usage: partitions ahead of time, and the end of what is too old."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from psycopg import errors as sqlstate
from sqlalchemy import text

from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.lease import PostgresLease
from ratelimit_service.postgres.usage_partitions import (
    Partition,
    create_partitions,
    drop_partition,
    existing_partitions,
)
from ratelimit_service.postgres.usage_session import cursor_of
from ratelimit_service.postgres.usage_tables import LEVELS
from ratelimit_service.usage.ports import Term
from ratelimit_service.usage.query_range import Kept, Level

MARKER_DAYS: Final = 8
"""How long it is known which segments were flushed, in case the bucket store goes back to an earlier state."""

AHEAD_DAYS: Final = (0, 1, 2, 31)
"""Days from now whose partitions are created."""

_PATIENCE: Final = text(
    # Whoever waits for the lock of a table makes all who come later wait too: so not for long.
    "SELECT set_config('statement_timeout', '10s', true), set_config('lock_timeout', '200ms', true),"
    " set_config('idle_in_transaction_session_timeout', '5s', true)"
)
_MARKERS: Final = (
    "DELETE FROM usage_segments AS s WHERE flush_time < %s AND EXISTS"
    " (SELECT FROM usage_segments AS n WHERE n.tag = s.tag AND n.flush_time > s.flush_time)"
)
_LOSSES: Final = "DELETE FROM usage_losses WHERE end_time < %s"
_HAS_COUNTS: Final = " OR ".join(
    # Asked for each series: a join would read all counts of all of them.
    f"(SELECT true FROM usage_{level} AS u WHERE u.series_id = s.series_id LIMIT 1)"  # noqa: S608  no caller's text
    for level in LEVELS
)
_DELETE_SERIES: Final = f"""
    WITH checked AS MATERIALIZED (SELECT series_id FROM usage_series WHERE series_id > %s ORDER BY series_id LIMIT %s),
    gone AS (
        DELETE FROM usage_series AS s USING checked AS c WHERE s.series_id = c.series_id AND ({_HAS_COUNTS}) IS NULL
        RETURNING s.series_id
    )
    SELECT (SELECT max(series_id) FROM checked), (SELECT count(*) FROM gone)
"""  # noqa: S608  no caller's text
SERIES_AT_ONCE: Final = 500
"""Series of one transaction, for which nothing else is written: some 10 ms, a second if nothing of it is in memory."""

SERIES_PER_ROUND: Final = 100_000
"""Series that one round checks, the next of them in each."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_log = structlog.stdlib.get_logger(__name__)


def cutoffs_of(kept: Kept, now_us: int) -> Mapping[str, datetime]:
    """Of each level the time before which nothing need be kept."""
    return {level.value: _EPOCH + timedelta(microseconds=now_us - kept.length(level)) for level in Level}


async def tidy(database: Database, lease: PostgresLease, term: Term, kept: Kept, now_us: int) -> bool:
    """Create partitions ahead, and drop what is older than its retention. Returns whether anything was dropped.

    Each step is a transaction of its own. A partition that is in use is left for the next time. Raises StoreUnavailable
    and LeaseLost.
    """
    now = _EPOCH + timedelta(microseconds=now_us)
    cutoffs = cutoffs_of(kept, now_us)
    ahead = {Partition.at(level, now + timedelta(days=days)) for level in LEVELS for days in AHEAD_DAYS}
    async with lease.writing(database, term, _PATIENCE) as connection:
        cursor = await cursor_of(connection)
        await create_partitions(cursor, ahead)
        existing = await existing_partitions(cursor)
    dropped = [
        name
        for name, partition in existing
        if partition.end <= cutoffs[partition.level] and await _drop(database, lease, term, name)
    ]
    if dropped:
        _log.info("usage older than its retention dropped", partitions=dropped)
    async with lease.writing(database, term, _PATIENCE) as connection:
        cursor = await cursor_of(connection)
        await cursor.execute(_MARKERS, (now - timedelta(days=MARKER_DAYS),))
        await cursor.execute(_LOSSES, (cutoffs["day"],))
    return bool(dropped)


class SeriesRetention:
    """Deletes the series that no level has counts of any more, in the order of their numbers, over several rounds."""

    def __init__(self, database: Database, lease: PostgresLease, forget: Callable[[], None]) -> None:
        """FORGET is called whenever series were deleted, before any flush can refer to them."""
        self._database = database
        self._lease = lease
        self._forget = forget
        self._after = 0  # the number that was checked last

    async def delete_unused(self, term: Term) -> None:
        """Check the next series. Raises StoreUnavailable and LeaseLost; the next round goes on from there."""
        deleted = 0
        for _ in range(SERIES_PER_ROUND // SERIES_AT_ONCE):
            async with self._lease.writing(self._database, term, _PATIENCE) as connection:
                cursor = await cursor_of(connection)
                await cursor.execute(_DELETE_SERIES, (self._after, SERIES_AT_ONCE))
                ((last, count),) = await cursor.fetchall()
                if count:
                    self._forget()  # no flush runs meanwhile: this transaction has the lease locked
            if count:
                self._forget()  # what a flush has remembered that ended just before
            deleted += count
            self._after = last or 0
            if last is None:
                break
        if deleted:
            _log.info("series without counts deleted", series=deleted)


async def _drop(database: Database, lease: PostgresLease, term: Term, name: str) -> bool:
    """Drop a partition. False if that has to wait, because others use it."""
    async with lease.writing(database, term, _PATIENCE) as connection:
        cursor = await cursor_of(connection)
        await cursor.execute("SAVEPOINT drop_partition")
        try:
            await drop_partition(cursor, name)
        except (sqlstate.LockNotAvailable, sqlstate.DeadlockDetected) as error:
            await cursor.execute("ROLLBACK TO SAVEPOINT drop_partition")
            _log.info("a partition is in use; it is dropped later", partition=name, error=str(error).strip())
            return False
    return True
