"""The pool of connections to Postgres."""

import asyncio

import psycopg
import pytest
from sqlalchemy import event, text

from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.errors import Unavailable
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.failures import TooManyAtOnce, raise_unavailable


async def test_closing_leaves_no_connection_of_cancelled_work(database_url: str) -> None:
    """A transaction that is cancelled right before the pool is closed has its connection closed, too."""
    database = Database(database_url)
    opened: asyncio.Future[psycopg.AsyncConnection] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        async with database.reading() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            assert isinstance(driver, psycopg.AsyncConnection)
            opened.set_result(driver)
            await connection.execute(text("SELECT pg_sleep(0.1)"))

    working = asyncio.create_task(work())
    driver = await opened
    working.cancel()

    await database.close()

    assert driver.closed


async def test_closing_leaves_no_connection_that_came_too_late(database_url: str) -> None:
    """Nor is a connection left open that was being made when its caller was cancelled."""
    database = Database(database_url)
    made: asyncio.Future[psycopg.AsyncConnection] = asyncio.get_running_loop().create_future()
    event.listen(
        database._engine.sync_engine,
        "connect",
        lambda connection, _: made.set_result(connection.driver_connection),
        insert=True,
    )
    asking = asyncio.create_task(database.ping())
    driver = await made
    asking.cancel()

    await database.close()

    assert driver.closed


async def test_work_beyond_the_pool_waits_for_its_turn(database_url: str) -> None:
    """Many small queries at once all get their turn; one that gets none fails, and Postgres is not blamed."""
    database = Database(database_url, pool_size=1, pool_overflow=0, queue_seconds=1.5)

    async def work(seconds: float) -> None:
        async with database.reading() as connection:
            await connection.execute(text(f"SELECT pg_sleep({seconds})"))

    try:
        await asyncio.gather(*(work(0.3) for _ in range(4)))  # together longer than one waits for a connection
        long = asyncio.create_task(work(2.5))
        await asyncio.sleep(0.2)
        with pytest.raises(TooManyAtOnce, match="too many queries at once"):
            await work(0)
        await long
        await work(0)
    finally:
        await database.close()


@pytest.mark.parametrize(
    ("error", "reason"),
    [(StoreUnavailable("down"), "POLICY_STORE_UNAVAILABLE"), (TooManyAtOnce("down"), "TOO_MANY_AT_ONCE")],
)
def test_callers_learn_whether_postgres_is_down(error: StoreUnavailable, reason: str) -> None:
    """The reason differs between a Postgres that is down and too many queries, and the message advises what to do."""
    with pytest.raises(Unavailable, match=r"^down; ask for less$") as caught, raise_unavailable("ask for less"):
        raise error
    assert caught.value.reason == reason


async def test_an_error_of_the_callers_own_is_not_one_of_postgres(database: Database) -> None:
    """An OSError of the caller's block passes through as it is, and a Postgres that fails in it is unavailable."""
    for own in (FileNotFoundError("plans.yaml"), TimeoutError("the caller's own"), ConnectionResetError("Redis")):
        with pytest.raises(type(own)) as caught:
            async with database.writing():
                raise own
        assert caught.value is own
    with pytest.raises(StoreUnavailable, match="terminating connection"):
        async with database.reading() as connection:
            await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    async with database.reading() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1


async def test_a_postgres_that_only_reads_is_named_as_such(database: Database) -> None:
    """A change on a standby is unavailable, with what to do."""
    with pytest.raises(StoreUnavailable, match="as a standby does; point RATELIMIT_DATABASE_URL to the primary"):
        async with database.writing() as connection:
            await connection.execute(text("SET TRANSACTION READ ONLY"))
            await connection.execute(text("DELETE FROM changes"))
