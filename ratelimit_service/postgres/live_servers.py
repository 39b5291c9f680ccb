"""The number of live servers."""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

import psycopg
from psycopg import AsyncConnection, sql

from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.query_connection import CONNECT_SECONDS

_LOCK = (0x726C, 3)
"""The advisory lock that every live server shares."""

_PAUSE_SECONDS = 2.0

CERTAIN_SECONDS: Final = 10.0
"""For which a number must have been lower before it counts. Every server that lives has connected again by then: it
tries every 2 s, and an attempt takes a second at most."""

_HOLD = sql.SQL("SELECT pg_advisory_lock_shared({}, {})").format(*_LOCK)
_COUNT = sql.SQL(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = {} AND objid = {} AND granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
).format(*_LOCK)


class PostgresLiveServers:
    """Counts the servers that use one database.

    Each holds a shared advisory lock on a connection of its own, so one that dies, however it dies, is no longer
    counted once Postgres sees its connection close. While Postgres is down, `count` keeps its last value.

    After Postgres was away the servers connect again one by one, and the first of them sees itself alone. If that
    counted, it would grant the whole of a limit while others grant their shares. So a higher number counts at once, and
    a lower one once it was seen for CERTAIN_SECONDS: until then a server grants too little rather than too much.
    """

    def __init__(self, database: Database, first_guess: int, now: Callable[[], float] = monotonic) -> None:
        self._conninfo = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
        self.count = first_guess
        """How many servers there are, this one included; at least 1."""
        self._now = now
        self._lower: list[tuple[float, int]] = []
        """Since when, and how many were seen, each time lower than `count`."""

    async def run(self) -> None:
        """Be counted, and keep `count` up to date, until cancelled."""
        while True:
            try:
                async with await AsyncConnection.connect(
                    self._conninfo, autocommit=True, connect_timeout=round(CONNECT_SECONDS + 0.5)
                ) as connection:
                    await connection.execute(_HOLD)
                    await self._keep_counting(connection)
            except (psycopg.Error, OSError):
                self._lower.clear()
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _keep_counting(self, connection: AsyncConnection) -> None:
        while True:
            row = await (await connection.execute(_COUNT)).fetchone()
            self.see(max(row[0], 1) if row else 1)
            await asyncio.sleep(_PAUSE_SECONDS)

    def see(self, count: int) -> None:
        """Take over COUNT, which was read, if it is certain."""
        now = self._now()
        if count >= self.count:
            self.count = count
            self._lower.clear()
            return
        self._lower.append((now, count))
        if now - self._lower[0][0] >= CERTAIN_SECONDS:
            self.count = max(seen for _, seen in self._lower)
            self._lower.clear()
