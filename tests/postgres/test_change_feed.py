"""The change feed delivers every change, soon, whatever happens to its connection."""

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

import psycopg
import pytest
import pytest_asyncio

from fixtures.control_plane import BURST, ControlPlane, key_draft, plan_draft
from ratelimit_service.decision.ports import Change, ChangeKind, StoreUnavailable
from ratelimit_service.decision.record import Override
from ratelimit_service.management.overrides import SubjectTarget
from ratelimit_service.postgres.change_feed import PostgresChangeFeed
from ratelimit_service.postgres.database import Database


@pytest_asyncio.fixture
async def feed(database: Database) -> AsyncIterator[PostgresChangeFeed]:
    """Open a feed on a database without any change."""
    feed = PostgresChangeFeed(database)
    yield feed
    await feed.close()


async def _next(feed: PostgresChangeFeed, after: int) -> list[Change]:
    """Wait for the next changes, as the policy cache does."""
    while True:
        changes = await feed.wait(after)
        if changes:
            return list(changes)


async def test_changes_come_in_order_and_name_whose_policies_they_touch(
    control_plane: ControlPlane, feed: PostgresChangeFeed
) -> None:
    """A plan, a key and a subject's override are told by kind and name, numbered upwards."""
    assert await feed.position() == 0
    await control_plane.plans.create("ada", plan_draft())
    key, _ = await control_plane.keys.create("ada", key_draft())
    await control_plane.overrides.set("ada", SubjectTarget("acme"), Override(BURST))

    changes = await _next(feed, 0)

    assert [(change.kind, change.name) for change in changes] == [
        (ChangeKind.PLAN, "free"),
        (ChangeKind.KEY, key.key_id),
        (ChangeKind.SUBJECT, "acme"),
    ]
    numbers = [change.number for change in changes]
    assert numbers == sorted(set(numbers))
    assert await feed.position() == numbers[-1]
    assert [change.number for change in await feed.wait(numbers[0])] == numbers[1:]


async def test_nothing_new_is_said_within_a_second(feed: PostgresChangeFeed) -> None:
    """Without any change a wait ends with nothing after about a second."""
    began = monotonic()

    assert list(await feed.wait(0)) == []

    assert 0.5 < monotonic() - began < 1.5


async def test_a_notification_wakes_the_reader(control_plane: ControlPlane, feed: PostgresChangeFeed) -> None:
    """A change during a wait ends it at once, long before the next look would."""
    await feed.position()
    delays = []
    for n in range(5):
        after = await feed.position()
        waiting = asyncio.create_task(_next(feed, after))
        await asyncio.sleep(0.1)
        await control_plane.plans.create("ada", plan_draft(f"p{n}"))
        committed = monotonic()
        await waiting
        delays.append(monotonic() - committed)

    assert sorted(delays)[2] < 0.2


async def test_a_change_without_a_notification_is_found_within_a_second(
    feed: PostgresChangeFeed, database_url: str
) -> None:
    """A change that nobody is notified of is found by the look that comes each second."""
    await feed.position()
    waiting = asyncio.create_task(_next(feed, 0))
    await asyncio.sleep(0.1)

    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO changes (kind, name, time) VALUES ('plan', 'silent', now())")
    began = monotonic()

    assert [change.name for change in await waiting] == ["silent"]
    assert monotonic() - began < 1.5


async def test_a_killed_connection_loses_no_change(
    control_plane: ControlPlane, feed: PostgresChangeFeed, database_url: str
) -> None:
    """A change after Postgres has ended the listening session is delivered within a second, and so is the next one."""
    await feed.position()
    waiting = asyncio.create_task(_next(feed, 0))
    await asyncio.sleep(0.1)
    with psycopg.connect(database_url, autocommit=True) as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    assert ended

    began = monotonic()
    await control_plane.plans.create("ada", plan_draft("one"))
    first = await waiting
    assert [change.name for change in first] == ["one"]
    assert monotonic() - began < 1

    waiting = asyncio.create_task(_next(feed, first[-1].number))
    await asyncio.sleep(0.1)
    began = monotonic()
    await control_plane.plans.create("ada", plan_draft("two"))
    assert [change.name for change in await waiting] == ["two"]
    assert monotonic() - began < 1


async def test_a_connection_killed_between_two_waits_is_opened_again(
    control_plane: ControlPlane, feed: PostgresChangeFeed, database_url: str
) -> None:
    """A session that ended while nobody waited is noticed and replaced by the next wait, without an error."""
    await feed.position()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    await control_plane.plans.create("ada", plan_draft())

    assert [change.name for change in await feed.wait(0)] == ["free"]


async def test_a_cancelled_wait_leaves_a_feed_that_works(control_plane: ControlPlane, feed: PostgresChangeFeed) -> None:
    """A reader that is cancelled in the middle of a wait, and begins again, misses nothing."""
    waiting = asyncio.create_task(_next(feed, 0))
    await asyncio.sleep(0.1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await control_plane.plans.create("ada", plan_draft())

    assert [change.name for change in await _next(feed, 0)] == ["free"]


async def test_a_dead_postgres_is_told(unused_port: int) -> None:
    """A feed whose Postgres is not there raises StoreUnavailable, without the password."""
    database = Database(f"postgresql://somebody:verysecret@127.0.0.1:{unused_port}/none")
    feed = PostgresChangeFeed(database)

    with pytest.raises(StoreUnavailable) as caught:
        await feed.position()
    with pytest.raises(StoreUnavailable):
        await feed.wait(0)

    assert "verysecret" not in str(caught.value)
    await database.close()
