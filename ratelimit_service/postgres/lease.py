"""Leases: rows that one process holds for some seconds at a time, and whose number every transaction of it checks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Executable, text
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.postgres.database import Database
from ratelimit_service.usage.ports import LeaseLost, Term

LEASE_SECONDS: Final = 5.0
"""How long a lease is held after its last renewal."""

_CREATE = text(
    "INSERT INTO leases (name, number, holder, expire_time) VALUES (:name, 0, '', to_timestamp(0)) "
    "ON CONFLICT (name) DO NOTHING"
)
# Rows that a transaction has locked are skipped, not waited for: its process leads, or is about to lose its lock.
_ACQUIRE = text(
    "UPDATE leases SET number = number + 1, holder = :holder, "
    "expire_time = clock_timestamp() + make_interval(secs => :seconds) "
    "WHERE name = (SELECT name FROM leases WHERE name = :name AND expire_time <= clock_timestamp() "
    "FOR UPDATE SKIP LOCKED) RETURNING number, expire_time"
)
_OURS: Final = (
    "name = :name AND number = :number AND holder = :holder "
    "AND expire_time >= coalesce(CAST(:written AS timestamptz), expire_time)"
)
_RENEW = text(
    "UPDATE leases SET expire_time = clock_timestamp() + make_interval(secs => :seconds) "  # noqa: S608  no values
    f"WHERE name = (SELECT name FROM leases WHERE {_OURS} FOR UPDATE SKIP LOCKED) RETURNING expire_time"
)
_IS_HELD = text(f"SELECT true FROM leases WHERE {_OURS}")  # noqa: S608  as above
_CHECK = text(f"{_IS_HELD.text} FOR UPDATE")
_RELEASE = text(
    "UPDATE leases SET expire_time = clock_timestamp() WHERE name = :name AND number = :number AND holder = :holder"
)


class PostgresLease:
    """The lease NAME, as `usage.ports.Lease` describes it, for one process.

    It is held for `seconds` by the clock of Postgres. A process that was stopped for longer may still believe that it
    holds it: so what a leader writes, it writes in `writing`, which fails once another process has acquired the lease.

    It fails, too, when the row is older than what this process has written: Postgres went back, as by a restore from a
    backup or a failover that lost transactions. Nothing holds any more then that a leader has in memory of the tables.
    """

    def __init__(self, database: Database, name: str, holder: str, *, seconds: float = LEASE_SECONDS) -> None:
        """HOLDER names this process, and no other that ever runs."""
        self._database = database
        self.name = name
        self._holder = holder
        self._written: datetime | None = None
        """The expiry that this process has written last, in its current term."""
        self.seconds = seconds

    async def acquire(self) -> Term | None:
        """Take it if nobody holds it. Raises StoreUnavailable."""
        async with self._database.writing() as connection:
            await connection.execute(_CREATE, {"name": self.name})
            values = {"name": self.name, "holder": self._holder, "seconds": self.seconds}
            acquired = (await connection.execute(_ACQUIRE, values)).one_or_none()
        if acquired is None:
            return None
        number, self._written = acquired
        return Term(number, self._holder)

    async def renew(self, term: Term) -> bool:
        """Hold it for longer. False if another process holds it now, or Postgres went back. Raises StoreUnavailable."""
        async with self._database.writing() as connection:
            # Not while a transaction of the leader has it, which extends it itself.
            written = await connection.scalar(_RENEW, self._values(term))
            held = written is not None or bool(await connection.scalar(_IS_HELD, self._values(term)))
        self._written = written or self._written
        return held

    async def release(self, term: Term) -> None:
        """End it, so that another process need not wait until it expires. Raises StoreUnavailable."""
        async with self._database.writing() as connection:
            await connection.execute(_RELEASE, self._values(term))

    @asynccontextmanager
    async def writing(
        self, database: Database, term: Term, *settings: Executable, seconds: float | None = None
    ) -> AsyncIterator[AsyncConnection]:
        """Begin a transaction in which the lease is held in this TERM, by nobody else until it has ended.

        SETTINGS are statements that run first. SECONDS are as for `Database.writing`. A long transaction keeps the
        lease: it is extended at the end. Raises StoreUnavailable, and LeaseLost if another process has acquired the
        lease since, or Postgres went back.
        """
        async with database.writing(seconds) as connection:
            for setting in settings:
                await connection.execute(setting)
            if not await connection.scalar(_CHECK, self._values(term)):
                raise LeaseLost(f"the lease {self.name} is held by another process, or Postgres went back")
            yield connection
            written = await connection.scalar(_RENEW, self._values(term))
        self._written = written or self._written

    def _values(self, term: Term) -> dict[str, Any]:
        return {
            "name": self.name,
            "number": term.number,
            "holder": term.holder,
            "seconds": self.seconds,
            "written": self._written,
        }
