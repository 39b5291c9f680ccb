"""A change, its audit row and its outbox rows are one transaction."""

import asyncio

import psycopg
import pytest
from sqlalchemy import text

from fixtures.control_plane import START, ControlPlane, key_draft, plan_draft
from ratelimit_service.decision.ports import Change, ChangeKind
from ratelimit_service.errors import Unavailable
from ratelimit_service.management.audit import Event
from ratelimit_service.management.paging import Paging
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.unit_of_work import PostgresTransactions

EVENT = Event("ada", "plan.create", "plans/free", {}, START)
FREE = Change(ChangeKind.PLAN, "free")


def _count(url: str) -> dict[str, int]:
    with psycopg.connect(url) as connection:
        counts = {}
        for table in ("plans", "keys", "audit_events", "changes"):
            row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            counts[table] = row[0] if row else -1
        return counts


async def test_a_commit_that_fails_leaves_nothing(control_plane: ControlPlane, database_url: str) -> None:
    """When Postgres refuses the commit itself, neither the change, nor its audit row, nor its outbox row is there."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'refused at commit' USING ERRCODE = 'connection_exception'; END $$"
        )
        connection.execute(
            "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON audit_events DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION refuse()"
        )

    try:
        with pytest.raises(Unavailable, match="refused at commit"):
            await control_plane.plans.create("ada", plan_draft())
    finally:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("DROP FUNCTION refuse CASCADE")

    assert _count(database_url) == {"plans": 0, "keys": 0, "audit_events": 0, "changes": 0}


async def test_a_block_that_raises_leaves_nothing(database: Database, database_url: str) -> None:
    """An error after the record was written rolls the record back."""
    with pytest.raises(RuntimeError, match="too late"):
        async with PostgresTransactions(database).writing() as work:
            await work.record(EVENT, FREE)
            raise RuntimeError("too late")

    assert _count(database_url)["audit_events"] == 0
    assert _count(database_url)["changes"] == 0


async def test_a_connection_lost_in_the_middle_leaves_nothing(database: Database, database_url: str) -> None:
    """A session that Postgres ends before the commit leaves nothing, and the caller gets UNAVAILABLE."""
    with pytest.raises(Unavailable) as caught:
        async with PostgresTransactions(database).writing() as work:
            await work.record(EVENT, FREE)
            with psycopg.connect(database_url, autocommit=True) as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )

    assert caught.value.reason == "POLICY_STORE_UNAVAILABLE"
    assert _count(database_url)["audit_events"] == 0


async def test_each_change_has_one_row_of_each_kind(control_plane: ControlPlane, database_url: str) -> None:
    """A plan and a key make two audit rows and two outbox rows."""
    await control_plane.plans.create("ada", plan_draft())
    await control_plane.keys.create("ada", key_draft())

    assert _count(database_url) == {"plans": 1, "keys": 1, "audit_events": 2, "changes": 2}


@pytest.mark.usefixtures("warm")
async def test_no_reader_of_the_outbox_misses_a_number(database: Database) -> None:
    """A reader that has seen a number has seen all below it, however many transactions commit at once, however slow."""
    transactions = PostgresTransactions(database)
    writers, each = 4, 6
    seen: list[int] = []
    late: list[int] = []

    async def write(writer: int) -> None:
        for n in range(each):
            async with transactions.writing() as work:
                await work.record(EVENT, FREE, Change(ChangeKind.KEY, f"{writer}-{n}"))
                await asyncio.sleep(0.001 * writer)  # between the number and the commit

    async def read() -> None:
        while len(seen) < 2 * writers * each:
            async with database.reading() as connection:
                numbers = (await connection.execute(text("SELECT number FROM changes ORDER BY number"))).scalars().all()
            new = [number for number in numbers if number not in seen]
            late.extend(number for number in new if seen and number < max(seen))
            seen.extend(new)

    await asyncio.gather(read(), *(write(writer) for writer in range(writers)))

    assert len(seen) == 2 * writers * each
    assert late == []


async def test_a_reading_transaction_sees_one_snapshot(control_plane: ControlPlane) -> None:
    """What is committed after a reading transaction's first query is not visible to it."""
    async with control_plane.transactions.reading() as work:
        assert await work.plans.list(after="", count=10) == []
        await control_plane.plans.create("ada", plan_draft())
        assert await work.plans.list(after="", count=10) == []

    assert len((await control_plane.plans.list(Paging())).items) == 1
