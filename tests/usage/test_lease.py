"""The lease: one process leads at a time, and what a former leader writes is refused."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from sqlalchemy import text

from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.lease import PostgresLease
from ratelimit_service.usage.ports import LeaseLost

SECONDS = 0.4


@pytest_asyncio.fixture
async def leases(database: Database) -> AsyncIterator[tuple[PostgresLease, PostgresLease]]:
    """Return the same lease for two processes."""
    yield (
        PostgresLease(database, "test", "one", seconds=SECONDS),
        PostgresLease(database, "test", "two", seconds=SECONDS),
    )


async def test_one_holds_it(leases: tuple[PostgresLease, PostgresLease]) -> None:
    """While it is renewed nobody else gets it; the next one gets another number once it has expired."""
    one, two = leases
    first = await one.acquire()
    assert first is not None
    for _ in range(4):
        await asyncio.sleep(SECONDS / 3)
        assert await one.renew(first)
        assert await two.acquire() is None
    await asyncio.sleep(SECONDS * 1.2)

    second = await two.acquire()

    assert second is not None
    assert (first.number, second.number) == (1, 2)
    assert not await one.renew(first)
    assert await one.acquire() is None


async def test_released_it_is_free_at_once(leases: tuple[PostgresLease, PostgresLease]) -> None:
    """A process that ends need not be waited for; it cannot release what another one holds."""
    one, two = leases
    first = await one.acquire()
    assert first is not None
    await one.release(first)
    second = await two.acquire()
    assert second is not None

    await one.release(first)

    assert await two.renew(second)
    assert await one.acquire() is None


async def test_a_former_leader_writes_nothing(leases: tuple[PostgresLease, PostgresLease], database: Database) -> None:
    """A transaction in a term that has ended fails before it has written anything."""
    one, two = leases
    term = await one.acquire()
    assert term is not None
    await asyncio.sleep(SECONDS * 1.2)
    async with one.writing(database, term):
        pass  # expired, but nobody has acquired it: still the leader
    await asyncio.sleep(SECONDS * 1.2)
    assert await two.acquire() is not None

    with pytest.raises(LeaseLost):
        async with one.writing(database, term) as connection:
            await connection.execute(text("DELETE FROM leases"))

    async with database.reading() as connection:
        assert await connection.scalar(text("SELECT holder FROM leases")) == "two"


async def test_a_long_transaction_keeps_it(leases: tuple[PostgresLease, PostgresLease], database: Database) -> None:
    """While a leader's transaction runs nobody acquires the lease nor waits for it, and it is extended at the end."""
    one, two = leases
    term = await one.acquire()
    assert term is not None

    async with one.writing(database, term):
        await asyncio.sleep(SECONDS * 1.5)
        async with asyncio.timeout(1):
            assert await two.acquire() is None
            assert await one.renew(term)

    assert await two.acquire() is None
    assert await one.renew(term)


async def test_it_is_lost_when_postgres_goes_back(
    leases: tuple[PostgresLease, PostgresLease], database: Database
) -> None:
    """A row from before what the leader wrote last is of a backup: what it knows of the tables holds no more."""
    one, _ = leases
    term = await one.acquire()
    assert term is not None
    async with database.reading() as connection:
        backup = await connection.scalar(text("SELECT expire_time FROM leases"))
    async with one.writing(database, term):
        pass
    assert await one.renew(term)
    async with database.writing() as connection:
        await connection.execute(text("UPDATE leases SET expire_time = :backup"), {"backup": backup})

    assert not await one.renew(term)
    with pytest.raises(LeaseLost):
        async with one.writing(database, term):
            pass
    await asyncio.sleep(SECONDS * 1.2)
    again = await one.acquire()
    assert again is not None
    assert (again.number, await one.renew(again)) == (2, True)


async def test_of_many_one_wins(database: Database) -> None:
    """Processes that try at the same moment do not all get it."""
    leases = [PostgresLease(database, "test", f"process {number}") for number in range(10)]

    terms = await asyncio.gather(*(lease.acquire() for lease in leases))

    assert [term.number for term in terms if term is not None] == [1]


async def test_postgres_away() -> None:
    """Without Postgres nobody leads."""
    lease = PostgresLease(Database("postgresql://postgres@127.0.0.1:1/none"), "test", "one")

    with pytest.raises(StoreUnavailable):
        await lease.acquire()
