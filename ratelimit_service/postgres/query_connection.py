"""A connection of its own for single statements that read."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.abc import RV, PQGen
from sqlalchemy import URL

from ratelimit_service.postgres.failures import HardTimeout, shut_down

CONNECT_SECONDS: Final = 0.8
"""How long to wait for a connection that answers, so that a dead Postgres is reported within a second."""

_CLOSE_SECONDS: Final = 0.1
"""How long a query that failed waits for its connection to be closed; after that it is closed in the background."""

_WAKE_SECONDS: Final = 10.0
"""In place of the tenth of a second after which psycopg wakes up while it waits, which Ctrl-C needs and nothing here:
a process that waits for notifications would never rest."""

SESSION: Final = (
    "SELECT set_config('timezone', 'UTC', false), set_config('statement_timeout', '3s', false),"
    " set_config('lock_timeout', '2s', false),"
    " set_config('idle_in_transaction_session_timeout', '10s', false)"
)
"""What every session begins with."""


class QueryConnection:
    """One connection to Postgres in autocommit, opened when it is needed and replaced when it turns out to be lost.

    A statement is one round trip, which neither waits for a pool nor takes a connection from one; Postgres prepares it
    once it was sent a few times. Statements wait for each other. They may be sent twice, so they must only read.
    """

    def __init__(self, url: URL, *setup: str) -> None:
        """SETUP are the statements that a new connection begins with."""
        self._conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._setup = setup
        self._connection: AsyncConnection | None = None
        self._opening = asyncio.Lock()
        self._timeout = HardTimeout()
        self._closing: set[asyncio.Task[None]] = set()  # the event loop alone would not keep them alive

    async def query(
        self, seconds: float, statement: str, values: Sequence[object] | Mapping[str, object] = ()
    ) -> list[tuple[Any, ...]]:
        """The rows of a statement. Raises psycopg.Error, and TimeoutError when it takes longer than SECONDS.

        It is sent once more, on a new connection, when the connection turns out to be lost.
        """
        used = self._connection
        try:
            return await self._timeout.run(seconds, self._execute(statement, values), self._give_up)
        except psycopg.OperationalError:
            await self._drop(used)
            if used is None:
                raise
        except (TimeoutError, asyncio.CancelledError):
            await self.close()  # in the middle of a statement, so it cannot be used again
            raise
        return await self._timeout.run(seconds, self._execute(statement, values), self._give_up)

    async def connected(self) -> AsyncConnection:
        """The open connection."""
        async with self._opening:
            if self._connection is None:
                connection = await self._timeout.run(
                    CONNECT_SECONDS, _RestingConnection.connect(self._conninfo, autocommit=True)
                )
                self._connection = connection
                for statement in (SESSION, *self._setup):
                    await connection.execute(statement.encode())
            return self._connection

    async def close(self) -> None:
        """Close the connection. It is opened again when it is needed."""
        await self._drop(self._connection)

    async def _drop(self, connection: AsyncConnection | None) -> None:
        if connection is None:
            connection = self._connection
        if connection is self._connection:
            self._connection = None
        if connection is not None:
            shut_down(connection)
            closing = asyncio.create_task(_close_when_idle(connection))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            await asyncio.wait({closing}, timeout=_CLOSE_SECONDS)

    def _give_up(self, task: asyncio.Task[list[tuple[Any, ...]]]) -> None:
        """Have a statement fail. To be cancelled it would open one more connection, for as long as ten seconds."""
        if self._connection is None:
            task.cancel()
        else:
            shut_down(self._connection)

    async def _execute(self, statement: str, values: Sequence[object] | Mapping[str, object]) -> list[tuple[Any, ...]]:
        connection = await self.connected()
        return await (await connection.execute(statement.encode(), values)).fetchall()


class _RestingConnection(AsyncConnection):
    async def wait(self, gen: PQGen[RV], interval: float = _WAKE_SECONDS, timeout: float | None = None) -> RV:  # noqa: ASYNC109  psycopg's own
        return await super().wait(gen, interval, timeout)


async def _close_when_idle(connection: AsyncConnection) -> None:
    """Close CONNECTION once no statement waits for it, not even one that was abandoned.

    The event loop watches the descriptor as long as a statement waits. If it were closed meanwhile, the next connection
    could get the same number, for which epoll would not be asked again, or libuv would end the process (SIGABRT).
    """
    async with connection.lock:
        await connection.close()
