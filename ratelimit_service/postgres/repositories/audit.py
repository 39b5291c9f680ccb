"""The audit log in Postgres."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.management.audit import AuditEvent, AuditFilter, Event
from ratelimit_service.postgres.repositories.conditions import begins_with
from ratelimit_service.postgres.tables import audit_events


class PostgresAuditRepository:
    """As `management.audit.AuditRepository` describes it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self, *, before: int | None, count: int, filters: AuditFilter) -> Sequence[AuditEvent]:
        """Read at most COUNT events that FILTERS match, newest first, numbered below BEFORE (None: all)."""
        return [
            AuditEvent(row.event_id, Event(row.actor, row.action, row.target, row.detail, row.time, row.previous))
            for row in await self._connection.execute(event_list(before=before, count=count, filters=filters))
        ]

    async def add(self, events: Sequence[Event]) -> None:
        """Append changes, in this order."""
        rows = [
            {
                "time": event.time_us,
                "actor": event.actor,
                "action": event.action,
                "target": event.target,
                "detail": dict(event.detail),
                "previous": dict(event.previous),
            }
            for event in events
        ]
        if rows:
            await self._connection.execute(insert(audit_events), rows)

    async def prune(self, before_us: int, count: int) -> int:
        """Delete at most COUNT of the oldest rows, those from before BEFORE_US only. Returns how many were deleted."""
        old = (
            select(audit_events.c.event_id)
            .where(audit_events.c.time < before_us)
            .order_by(audit_events.c.time)
            .limit(count)
        )
        return (await self._connection.execute(delete(audit_events).where(audit_events.c.event_id.in_(old)))).rowcount


def event_list(*, before: int | None, count: int, filters: AuditFilter) -> Select[Any]:
    """The statement of `PostgresAuditRepository.list`."""
    statement = select(audit_events).where(*_conditions(filters)).order_by(audit_events.c.event_id.desc()).limit(count)
    return statement if before is None else statement.where(audit_events.c.event_id < before)


def _conditions(filters: AuditFilter) -> Iterator[ColumnElement[bool]]:
    columns = audit_events.c
    if filters.target:
        yield columns.target == filters.target
    if filters.target_prefix:
        yield from begins_with(columns.target, filters.target_prefix)
    if filters.actor:
        yield columns.actor == filters.actor
    if filters.action:
        yield columns.action == filters.action
    if filters.start_us is not None:
        yield columns.time >= filters.start_us
    if filters.end_us is not None:
        yield columns.time < filters.end_us
