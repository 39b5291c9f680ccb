"""Transactions of the control plane: rows, audit events and announced changes together, or none of them.

Changes are announced in an outbox, the table `changes`, with a notification that wakes `PostgresChangeFeed`.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy import BigInteger, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.decision.ports import Change, StoreUnavailable
from ratelimit_service.management.audit import Event
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.failures import raise_unavailable
from ratelimit_service.postgres.repositories.alerts import PostgresAlertRepository
from ratelimit_service.postgres.repositories.audit import PostgresAuditRepository
from ratelimit_service.postgres.repositories.enforcement import PostgresEnforcementRepository
from ratelimit_service.postgres.repositories.keys import PostgresKeyRepository
from ratelimit_service.postgres.repositories.outbox import PostgresOutbox
from ratelimit_service.postgres.repositories.overrides import PostgresOverrideRepository
from ratelimit_service.postgres.repositories.plans import PostgresPlanRepository
from ratelimit_service.postgres.repositories.rules import PostgresRulesRepository
from ratelimit_service.postgres.repositories.sessions import PostgresSessionRepository
from ratelimit_service.postgres.repositories.tokens import PostgresTokenRepository
from ratelimit_service.postgres.tables import write_lock

_LOCK: Final = select(write_lock.c.only_row).with_for_update()
"""The lock that writing transactions take in turn. Only a role that may write can take it."""

_EARLIER_LOCK: Final = select(func.pg_try_advisory_xact_lock(cast(0x726C_0001, BigInteger)))
"""The lock of servers from before schema 0009. Any role that may connect can hold it, so it is not waited for long."""

_EARLIER_TRIES: Final = 25
_EARLIER_SECONDS: Final = 0.02


class PostgresUnitOfWork:
    """One transaction on one connection: all that the nouns of `management` work on."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.keys = PostgresKeyRepository(connection)
        self.plans = PostgresPlanRepository(connection)
        self.overrides = PostgresOverrideRepository(connection)
        self.rules = PostgresRulesRepository(connection)
        self.enforcement = PostgresEnforcementRepository(connection)
        self.audit = PostgresAuditRepository(connection)
        self.tokens = PostgresTokenRepository(connection)
        self.alerts = PostgresAlertRepository(connection)
        self.sessions = PostgresSessionRepository(connection)
        self.outbox = PostgresOutbox(connection)

    async def record(self, event: Event, *changed: Change) -> None:
        """Write the audit row and the outbox rows, and notify the servers once the transaction commits."""
        await self.audit.add([event])
        await self.outbox.add([(change, event.time_us) for change in changed])

    async def record_all(self, recorded: Sequence[tuple[Event, Change]]) -> None:
        """Do the same for many changes at once."""
        await self.audit.add([event for event, _ in recorded])
        await self.outbox.add([(change, event.time_us) for event, change in recorded])


class PostgresTransactions:
    """Begins transactions, as `management.transactions.Transactions` describes them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[PostgresUnitOfWork]:
        """Begin a transaction that only reads, in one snapshot."""
        with raise_unavailable():
            async with self._database.reading() as connection:
                yield PostgresUnitOfWork(connection)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[PostgresUnitOfWork]:
        """Begin a transaction that commits when its block ends, once no other writing transaction is running.

        Postgres releases the lock only after the commit is visible. Hence a reader that has seen a number in the
        outbox, or a position in a list of keys or events, has seen all that come before it.
        """
        with raise_unavailable():
            async with self._database.writing() as connection:
                await _exclude_earlier_versions(connection)
                if await connection.scalar(_LOCK) is None:
                    raise StoreUnavailable("the table write_lock is empty; run INSERT INTO write_lock DEFAULT VALUES")
                yield PostgresUnitOfWork(connection)


async def _exclude_earlier_versions(connection: AsyncConnection) -> None:
    """Take the lock that servers before schema 0009 take, as during a rolling upgrade, or go on without after 0.5 s.

    Those read a row, change it, and meet the other lock only when they record it: without this they could write back
    what a newer server has changed meanwhile, such as the state of a key that it revoked.
    """
    for _ in range(_EARLIER_TRIES):
        if await connection.scalar(_EARLIER_LOCK):
            return
        await asyncio.sleep(_EARLIER_SECONDS)
