"""The pool of connections to Postgres."""

import asyncio

import psycopg
from sqlalchemy import event, text

from ratelimit_service.postgres.database import Database


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
