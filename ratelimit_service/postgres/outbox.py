"""The outbox of changes, and the order of writing transactions."""

from collections.abc import Iterable

from sqlalchemy import BigInteger, cast, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.management.audit import Changed
from ratelimit_service.postgres.tables import changes

CHANNEL = "ratelimit_changes"
"""Where NOTIFY says that there is something new in the outbox."""

_WRITERS = 0x726C_0001
"""The advisory lock that writing transactions take turns by."""


class ChangeLog:
    """Writes the outbox. Its numbers count up in the order of commits, because writers take turns."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def take_turn(self) -> None:
        """Wait until no other writing transaction is under way, and keep others waiting until this one has ended.

        Postgres gives the lock up only after the commit is visible. Hence whoever has seen a number in the outbox, or
        a position in a list of keys or events, has seen all that come before it.
        """
        await self._connection.execute(select(func.pg_advisory_xact_lock(cast(_WRITERS, BigInteger))))

    async def add(self, changed: Iterable[Changed], now_us: int) -> None:
        """Tell every server, once the transaction commits, whose policies have changed."""
        rows = [{"kind": one.kind.value, "name": one.name, "time": now_us} for one in changed]
        if rows:
            await self._connection.execute(insert(changes), rows)
            await self._connection.execute(select(func.pg_notify(CHANNEL, "")))
