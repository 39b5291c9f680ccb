"""The outbox of changes in Postgres, as its writers and retention see it; `change_feed` reads it."""

from collections.abc import Sequence

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.decision.ports import Change
from ratelimit_service.postgres.tables import CHANGES_CHANNEL, changes


class PostgresOutbox:
    """Announces changes, and deletes old ones as `management.retention.Prunable` describes it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, announced: Sequence[tuple[Change, int]]) -> None:
        """Append changes, each with its time, and notify the servers once the transaction commits."""
        rows = [{"kind": change.kind.value, "name": change.name, "time": time_us} for change, time_us in announced]
        if rows:
            await self._connection.execute(insert(changes), rows)
            await self._connection.execute(select(func.pg_notify(CHANGES_CHANNEL, "")))

    async def prune(self, before_us: int, count: int) -> int:
        """Delete at most COUNT of the oldest rows, those from before BEFORE_US only, and never the newest row.

        The feed's position is the highest number: without a row it would begin at 0 again.
        """
        oldest = (
            select(changes.c.number, changes.c.time)
            .where(changes.c.number < select(func.max(changes.c.number)).scalar_subquery())
            .order_by(changes.c.number)
            .limit(count)
            .subquery()
        )
        old = select(oldest.c.number).where(oldest.c.time < before_us)
        return (await self._connection.execute(delete(changes).where(changes.c.number.in_(old)))).rowcount
