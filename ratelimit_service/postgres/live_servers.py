"""The number of live servers."""

import asyncio

import psycopg
from psycopg import AsyncConnection, sql

from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.query_connection import CONNECT_SECONDS

_LOCK = (0x726C, 3)
"""The advisory lock that every live server shares."""

_PAUSE_SECONDS = 2.0
_HOLD = sql.SQL("SELECT pg_advisory_lock_shared({}, {})").format(*_LOCK)
_COUNT = sql.SQL(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = {} AND objid = {} AND granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
).format(*_LOCK)


class PostgresLiveServers:
    """Counts the servers that use one database.

    Each holds a shared advisory lock on a connection of its own, so one that dies, however it dies, is no longer
    counted once Postgres sees its connection close. While Postgres is down, `count` keeps its last value.
    """

    def __init__(self, database: Database, first_guess: int) -> None:
        self._conninfo = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
        self.count = first_guess
        """How many servers there are, this one included; at least 1."""

    async def run(self) -> None:
        """Be counted, and keep `count` up to date, until cancelled."""
        while True:
            try:
                async with await AsyncConnection.connect(
                    self._conninfo, autocommit=True, connect_timeout=round(CONNECT_SECONDS + 0.5)
                ) as connection:
                    await connection.execute(_HOLD)
                    await self._keep_counting(connection)
            except psycopg.Error:
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _keep_counting(self, connection: AsyncConnection) -> None:
        while True:
            row = await (await connection.execute(_COUNT)).fetchone()
            self.count = max(row[0], 1) if row else 1
            await asyncio.sleep(_PAUSE_SECONDS)
