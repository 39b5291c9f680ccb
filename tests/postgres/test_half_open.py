"""The way to Postgres accepts connections and brings no answer: each attempt is closed as soon as it is given up."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import psutil
import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from faults.proxy import FaultProxy
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.postgres.change_feed import PostgresChangeFeed
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.policy_source import PostgresPolicySource

ATTEMPTS = 3
KEY_ID = "0123456789ab"


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[FaultProxy]:
    """What stands between this process and Postgres."""
    with FaultProxy(int(postgres_url.rpartition(":")[2].partition("/")[0])) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def database(postgres_url: str, proxy: FaultProxy) -> AsyncIterator[Database]:
    """A database behind it."""
    database = Database(postgres_url.replace(f":{proxy.target_port}/", f":{proxy.port}/"))
    yield database
    await database.close()


@pytest.fixture
def uncollected() -> Iterator[None]:
    """The garbage collector, which may come minutes later, closes nothing."""
    gc.disable()
    yield
    gc.enable()


def _established(proxy: FaultProxy) -> int:
    """Connections of this process to the proxy."""
    return sum(
        found.status == psutil.CONN_ESTABLISHED and found.raddr.port == proxy.port
        for found in psutil.Process().net_connections("tcp")
        if found.raddr
    )


async def _closed(proxy: FaultProxy) -> None:
    """Return once no connection is left. Raises TimeoutError if one is left after a while."""
    async with asyncio.timeout(3):
        while _established(proxy):  # noqa: ASYNC110  the system reports no end of one
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("uncollected")
async def test_attempts_that_are_given_up_leave_no_connection(database: Database, proxy: FaultProxy) -> None:
    """Transactions, look-ups and the change feed try again and again; none is left of what they gave up."""
    source, feed = PostgresPolicySource(database), PostgresChangeFeed(database)
    works: tuple[Callable[[], Awaitable[object]], ...] = (
        database.ping,
        lambda: source.fetch([KEY_ID]),
        feed.position,
    )
    proxy.inject(half_open=True)
    for _ in range(ATTEMPTS):
        failures = await asyncio.gather(*(work() for work in works), return_exceptions=True)
        assert [type(failure) for failure in failures] == [StoreUnavailable] * len(works)
        kept = failures  # as whoever reports them later does
        await _closed(proxy)
    assert proxy.connections >= ATTEMPTS * len(works), kept


@pytest.mark.usefixtures("uncollected")
async def test_a_read_that_is_given_up_opens_no_connection(database: Database, proxy: FaultProxy) -> None:
    """The connection of a read without an answer is closed: no other one is opened to have it cancelled."""
    source, feed = PostgresPolicySource(database), PostgresChangeFeed(database)
    await source.fetch([KEY_ID])
    position = await feed.position()
    opened = proxy.connections
    proxy.inject(half_open=True)
    for work in (source.fetch([KEY_ID]), feed.wait(position)):
        with pytest.raises(StoreUnavailable):
            await work
    await _closed(proxy)
    assert proxy.connections == opened


@pytest.mark.usefixtures("uncollected")
async def test_a_pooled_connection_that_is_given_up_is_closed(
    database: Database, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """A transaction on a connection without an answer closes it, and the one by which it would be cancelled."""
    caplog.set_level(logging.ERROR, "psycopg")  # as in a server; records would keep errors, and these the connection
    await database.ping()
    opened = proxy.connections
    proxy.inject(half_open=True)
    with pytest.raises(StoreUnavailable):
        await database.ping()
    await _closed(proxy)
    assert proxy.connections == opened + 1


async def test_postgres_is_asked_to_cancel_a_statement_in_a_transaction(database: Database) -> None:
    """A statement whose caller has gone ends in Postgres, too."""
    sleeping = asyncio.create_task(_sleep(database))
    async with database.reading() as connection:
        await _sleepers(connection, 1)
        sleeping.cancel()
        await _sleepers(connection, 0)
    with pytest.raises(asyncio.CancelledError):
        await sleeping


async def _sleep(database: Database) -> None:
    async with database.reading() as connection:
        await connection.execute(text("SELECT pg_sleep(2.9)"))


async def _sleepers(connection: AsyncConnection, count: int) -> None:
    """Return once as many sessions of this database sleep. Raises TimeoutError after a second."""
    running = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    )
    async with asyncio.timeout(1):
        while await connection.scalar(running) != count:  # noqa: ASYNC110  Postgres reports no end of one
            await asyncio.sleep(0.02)
