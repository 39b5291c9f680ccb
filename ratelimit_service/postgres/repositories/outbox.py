"""The outbox of changes in Postgres, as its writers and retention see it; `change_feed` reads it."""

from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.decision.ports import Change, ChangeKind
from ratelimit_service.postgres.tables import CHANGES_CHANNEL, changes

_DOMAIN_OF_ENFORCEMENT: Final = ""
"""No domain has this name. A change of the switch is stored as one of this domain, which servers of earlier versions,
that know no switch, read as a domain without rules; another kind would stop them from following changes."""


def to_row(change: Change) -> Mapping[str, str]:
    """The kind and name of a change as they are stored."""
    if change.kind is ChangeKind.ENFORCEMENT:
        return {"kind": ChangeKind.DOMAIN.value, "name": _DOMAIN_OF_ENFORCEMENT}
    return {"kind": change.kind.value, "name": change.name}


def from_row(kind: str, name: str) -> Change:
    """The change that was stored. Raises ValueError for a kind that there is not."""
    if (kind, name) == (ChangeKind.DOMAIN.value, _DOMAIN_OF_ENFORCEMENT):
        return Change(ChangeKind.ENFORCEMENT, "")
    return Change(ChangeKind(kind), name)


class PostgresOutbox:
    """Announces changes, and deletes old ones as `management.retention.Prunable` describes it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, announced: Sequence[tuple[Change, int]]) -> None:
        """Append changes, each with its time, and notify the servers once the transaction commits."""
        rows = [{**to_row(change), "time": time_us} for change, time_us in announced]
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
