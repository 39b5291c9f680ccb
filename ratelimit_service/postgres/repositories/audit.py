"""The audit log in Postgres. Rows of which a part is not valid are read all the same.

Whoever may append to the log may append such a row, and must not hide by it what was recorded before.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Label, Row, Select, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.management.audit import AuditEvent, AuditFilter, Event
from ratelimit_service.postgres.repositories.conditions import begins_with, readable_time
from ratelimit_service.postgres.repositories.stored_fields import document_text, fields_of
from ratelimit_service.postgres.tables import audit_events

_MAX_TEXT = 512
"""Characters of an actor, action or target that are read: more than any has."""


def _text(column: Column[str]) -> Label[str]:
    return func.substr(column, 1, _MAX_TEXT).label(column.name)


_COLUMNS = (
    audit_events.c.event_id,
    _text(audit_events.c.actor),
    _text(audit_events.c.action),
    _text(audit_events.c.target),
    document_text(audit_events.c.detail),
    document_text(audit_events.c.previous),
    readable_time(audit_events.c.time),
)


class PostgresAuditRepository:
    """As `management.audit.AuditRepository` describes it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self, *, before: int | None, count: int, filters: AuditFilter) -> Sequence[AuditEvent]:
        """Read at most COUNT events that FILTERS match, newest first, numbered below BEFORE (None: all)."""
        statement = event_list(before=before, count=count, filters=filters)
        return [_event(row) for row in await self._connection.execute(statement)]

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
    statement = select(*_COLUMNS).where(*_conditions(filters)).order_by(audit_events.c.event_id.desc()).limit(count)
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


def _event(row: Row[*tuple[Any, ...]]) -> AuditEvent:
    name = f"audit_events {row.event_id}"
    detail, previous = fields_of(row.detail, name), fields_of(row.previous, name)
    return AuditEvent(row.event_id, Event(row.actor, row.action, row.target, detail, row.time, previous))
