"""The lock of all writers: who may not write cannot hold it, and numbers are in commit order beside older servers."""

import asyncio
from collections.abc import AsyncIterator, Callable

import psycopg
import pytest
import pytest_asyncio

from fixtures.control_plane import ControlPlane, plan_draft
from fixtures.rights import LeastRights, with_least_rights
from fixtures.valkey import StartValkey
from ratelimit_service.errors import Unavailable
from ratelimit_service.postgres.change_feed import PostgresChangeFeed
from ratelimit_service.postgres.database import Database

OLD_LOCK = 0x726C_0001
"""The advisory lock that servers before schema 0009 take."""


@pytest.fixture
def least(valkey: StartValkey, empty_database_url: Callable[[], str]) -> LeastRights:
    """A database of the test's own, by its roles."""
    return with_least_rights(empty_database_url(), valkey().url)


@pytest_asyncio.fixture
async def plane(least: LeastRights) -> AsyncIterator[ControlPlane]:
    """A control plane with the least rights."""
    database = Database(least.database_url)
    yield ControlPlane(database)
    await database.close()


async def test_a_role_that_reads_holds_up_no_writer(plane: ControlPlane, least: LeastRights) -> None:
    """Whatever locks the role of decisions takes, changes go on."""
    with psycopg.connect(least.decision_database_url) as reader:
        reader.execute("SELECT pg_advisory_lock(%s)", (OLD_LOCK,))
        for attempt in ("SELECT FROM write_lock FOR UPDATE", "LOCK TABLE changes IN ACCESS EXCLUSIVE MODE"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), reader.transaction():
                reader.execute(attempt.encode())
        reader.execute("SELECT * FROM changes")
        assert (await plane.plans.create("ada", plan_draft())).version == 1


async def test_older_servers_write_in_turn(plane: ControlPlane, least: LeastRights) -> None:
    """A server of an earlier version and one of this one change in turn, so the feed misses neither's change."""
    feed = PostgresChangeFeed(plane.database)
    start = await feed.position()
    async with await psycopg.AsyncConnection.connect(least.database_url) as older:
        await older.execute("SELECT pg_advisory_xact_lock(%s)", (OLD_LOCK,))
        await older.execute("INSERT INTO changes (kind, name, time) VALUES ('plan', 'older', now())")
        creating = asyncio.create_task(plane.plans.create("ada", plan_draft()))
        await asyncio.sleep(0.3)
        assert not creating.done(), "both write at once"
        await older.commit()
    await creating
    found = await feed.wait(start)
    assert [change.name for change in found.changes] == ["older", "free"]
    await feed.close()


async def test_what_an_older_server_has_read_is_not_changed_below_it(plane: ControlPlane, least: LeastRights) -> None:
    """It reads a key, then writes the whole row back: in between, this version must not revoke that key."""
    async with await psycopg.AsyncConnection.connect(least.database_url) as older:
        await older.execute("SELECT pg_advisory_xact_lock(%s)", (OLD_LOCK,))
        creating = asyncio.create_task(plane.plans.create("ada", plan_draft()))
        await asyncio.sleep(0.2)
        assert not creating.done(), "changed within the transaction of another"
        await older.commit()
        assert (await creating).version == 1


async def test_an_older_server_waits(plane: ControlPlane, least: LeastRights) -> None:
    """While this version writes, an earlier one draws no number that would be committed in another order."""
    async with await psycopg.AsyncConnection.connect(least.database_url) as older:
        for statement in (
            "INSERT INTO changes (kind, name, time) VALUES ('plan', 'older', now())",
            "INSERT INTO audit_events (time, actor, action, target, detail) VALUES (now(), 'a', 'b', 'c', '{}')",
        ):
            async with plane.transactions.writing():
                writing = asyncio.create_task(older.execute(statement.encode()))
                await asyncio.sleep(0.3)
                assert not writing.done()
            await writing
            await older.rollback()


async def test_a_lock_without_its_row(control_plane: ControlPlane, database_url: str) -> None:
    """If the owner empties its table, nothing is written without the lock, and the error says what to do."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM write_lock")
        try:
            with pytest.raises(Unavailable, match="INSERT INTO write_lock"):
                await control_plane.plans.create("ada", plan_draft())
        finally:
            connection.execute("INSERT INTO write_lock DEFAULT VALUES")
