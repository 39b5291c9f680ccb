"""Transactions of the control plane."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.errors import Unavailable
from ratelimit_service.management.audit import Changed, Event
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.outbox import ChangeLog
from ratelimit_service.postgres.repositories.audit import PostgresAuditRepository
from ratelimit_service.postgres.repositories.keys import PostgresKeyRepository
from ratelimit_service.postgres.repositories.overrides import PostgresOverrideRepository
from ratelimit_service.postgres.repositories.plans import PostgresPlanRepository
from ratelimit_service.postgres.repositories.rules import PostgresRulesRepository
from ratelimit_service.postgres.repositories.tokens import PostgresTokenRepository


class PostgresUnitOfWork:
    """One transaction on one connection, as `keys.ports.UnitOfWork` describes it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.keys = PostgresKeyRepository(connection)
        self.plans = PostgresPlanRepository(connection)
        self.overrides = PostgresOverrideRepository(connection)
        self.rules = PostgresRulesRepository(connection)
        self.audit = PostgresAuditRepository(connection)
        self.tokens = PostgresTokenRepository(connection)
        self._change_log = ChangeLog(connection)

    async def record(self, event: Event, *changed: Changed) -> None:
        """Write the audit row and the outbox rows. All of it is there after the commit, or nothing is."""
        await self.audit.add(event)
        await self._change_log.add(changed, event.time_us)


class PostgresTransactions:
    """Begins transactions, as `keys.ports.Transactions` describes them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[PostgresUnitOfWork]:
        """Begin a transaction that only reads, in one snapshot."""
        try:
            async with self._database.reading() as connection:
                yield PostgresUnitOfWork(connection)
        except StoreUnavailable as fault:
            raise _unavailable(fault) from fault

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[PostgresUnitOfWork]:
        """Begin a transaction that commits when its block ends; only one at a time is under way."""
        try:
            async with self._database.writing() as connection:
                await ChangeLog(connection).take_turn()
                yield PostgresUnitOfWork(connection)
        except StoreUnavailable as fault:
            raise _unavailable(fault) from fault


def _unavailable(fault: StoreUnavailable) -> Unavailable:
    return Unavailable(f"{fault}; try again", reason="POLICY_STORE_UNAVAILABLE")
