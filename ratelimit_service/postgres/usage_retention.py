"""The retention of usage: partitions ahead of time, and the end of what is too old."""

from collections.abc import Mapping
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
_SERIES: Final = (
    "DELETE FROM usage_series AS s WHERE NOT EXISTS (SELECT FROM usage_day AS u WHERE u.series_id = s.series_id)"
    " AND NOT EXISTS (SELECT FROM usage_hour AS u WHERE u.series_id = s.series_id)"
    " AND NOT EXISTS (SELECT FROM usage_minute AS u WHERE u.series_id = s.series_id)"
)

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
        if any(name.startswith("usage_day_") for name in dropped):
            await cursor.execute(_SERIES)
    return bool(dropped)


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
