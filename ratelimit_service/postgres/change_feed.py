"""Where the decision plane hears of changes."""

import asyncio
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import AsyncConnection

from ratelimit_service.decision.ports import Change, ChangeKind
from ratelimit_service.postgres.database import CONNECT_SECONDS, Database
from ratelimit_service.postgres.failures import Patience, translate_failures
from ratelimit_service.postgres.outbox import CHANNEL

_POLL_SECONDS = 0.9
"""How long to wait for a notification before the next look: the floor, should none ever come."""

_ANSWER_SECONDS = 1.0
_MAX_PER_READ = 10_000


class PostgresChangeFeed:
    """As `decision.ports.ChangeFeed` describes it, for one reader.

    A connection of its own listens for notifications, which only wake the reader: what has changed is read from the
    outbox, at least once a second. So neither a lost notification nor a lost connection hides a change.
    """

    def __init__(self, database: Database) -> None:
        self._conninfo = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._connection: AsyncConnection | None = None
        self._patience = Patience()

    async def position(self) -> int:
        """Return the number of the newest change so far, 0 if there is none. Raises StoreUnavailable."""
        with translate_failures():
            rows = await self._ask("SELECT coalesce(max(number), 0) FROM changes")
            return int(rows[0][0])

    async def wait(self, after: int) -> Sequence[Change]:
        """Return the changes numbered above AFTER, oldest first, within a second or so, perhaps none.

        Raises StoreUnavailable.
        """
        with translate_failures():
            changes = await self._read_changes(after)
            if not changes and await self._is_woken():
                changes = await self._read_changes(after)
            return changes

    async def close(self) -> None:
        """Close the connection. It is opened again when it is needed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _read_changes(self, after: int) -> list[Change]:
        rows = await self._ask(
            "SELECT number, kind, name FROM changes WHERE number > %s ORDER BY number LIMIT %s", after, _MAX_PER_READ
        )
        return [Change(int(number), ChangeKind(kind), name) for number, kind, name in rows]

    async def _is_woken(self) -> bool:
        """Wait for a notification, for as long as there is none. False when none came."""
        connection = await self._listening()
        try:
            async for _ in connection.notifies(timeout=_POLL_SECONDS, stop_after=1):
                return True
        except psycopg.OperationalError:
            await self.close()
            return True  # something may have happened while nobody listened
        return False

    async def _ask(self, query: str, *values: int) -> list[tuple[Any, ...]]:
        """Run a query on the listening connection, and once more on a new one when that turns out to be lost."""
        fresh = self._connection is None
        try:
            return await self._patience.within(_ANSWER_SECONDS, self._run(query, values))
        except psycopg.OperationalError:
            await self.close()
            if fresh:
                raise
        except (TimeoutError, asyncio.CancelledError):
            await self.close()  # in the middle of a query, so of no more use
            raise
        return await self._patience.within(_ANSWER_SECONDS, self._run(query, values))

    async def _run(self, query: str, values: tuple[int, ...]) -> list[tuple[Any, ...]]:
        connection = await self._listening()
        return await (await connection.execute(query.encode(), values)).fetchall()

    async def _listening(self) -> AsyncConnection:
        if self._connection is None:
            connection = await self._patience.within(
                CONNECT_SECONDS, AsyncConnection.connect(self._conninfo, autocommit=True)
            )
            self._connection = connection
            await connection.execute(f"LISTEN {CHANNEL}".encode())
        return self._connection
