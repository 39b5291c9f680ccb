"""The audit log in Postgres."""

from collections.abc import Sequence

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.management.audit import AuditEvent, Event
from ratelimit_service.postgres.tables import audit_events


class PostgresAuditRepository:
    """As `management.audit.AuditRepository` describes it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self, *, before: int | None, count: int, target: str) -> Sequence[AuditEvent]:
        """Read at most COUNT events, newest first, numbered below BEFORE (None: all), of TARGET unless it is empty."""
        statement = select(audit_events).order_by(audit_events.c.event_id.desc()).limit(count)
        if before is not None:
            statement = statement.where(audit_events.c.event_id < before)
        if target:
            statement = statement.where(audit_events.c.target == target)
        return [
            AuditEvent(row.event_id, Event(row.actor, row.action, row.target, row.detail, row.time))
            for row in await self._connection.execute(statement)
        ]

    async def add(self, event: Event) -> None:
        """Append a change."""
        values = {
            "time": event.time_us,
            "actor": event.actor,
            "action": event.action,
            "target": event.target,
            "detail": dict(event.detail),
        }
        await self._connection.execute(insert(audit_events).values(values))
