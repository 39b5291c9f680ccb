"""The change feed delivers every change, soon, whatever happens to its connection."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from time import monotonic

import psycopg
import pytest
import pytest_asyncio

from fixtures.control_plane import BURST, ControlPlane, key_draft, plan_draft
from fixtures.postgres import EMPTIES
from ratelimit_service.decision.limit import Level
from ratelimit_service.decision.ports import Change, ChangeKind, Changes, Gap, StoreUnavailable
from ratelimit_service.decision.record import Override
from ratelimit_service.management.overrides import OverrideTarget
from ratelimit_service.postgres.change_feed import PostgresChangeFeed
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.feed_heartbeat import PostgresHeartbeat
from ratelimit_service.postgres.unreadable_rows import UnreadableRows


@pytest_asyncio.fixture
async def feed(database: Database) -> AsyncIterator[PostgresChangeFeed]:
    """Open a feed on a database without any change."""
    feed = PostgresChangeFeed(database)
    yield feed
    await feed.close()


async def _next(feed: PostgresChangeFeed, after: int) -> Changes:
    """Wait for the next changes, as the cache invalidator does."""
    while True:
        found = await feed.wait(after)
        if found.changes:
            return found


def _names(found: Changes) -> list[str]:
    return [change.name for change in found.changes]


async def test_changes_come_in_order_with_kind_and_name(control_plane: ControlPlane, feed: PostgresChangeFeed) -> None:
    """A plan, a key and a subject's override are reported by kind and name, in the order of their commits."""
    assert await feed.position() == 0
    await control_plane.plans.create("ada", plan_draft())
    key, _ = await control_plane.keys.create("ada", key_draft())
    await control_plane.overrides.set("ada", OverrideTarget(Level.SUBJECT, "acme"), Override(BURST))

    found = await _next(feed, 0)

    assert found.changes == [
        Change(ChangeKind.PLAN, "free"),
        Change(ChangeKind.KEY, key.key_id),
        Change(ChangeKind.SUBJECT, "acme"),
    ]
    assert await feed.position() == found.position


async def test_a_reader_that_was_away_too_long_learns_of_it(
    control_plane: ControlPlane, feed: PostgresChangeFeed, database_url: str
) -> None:
    """Changes are complete while the last one that was read is kept, and incomplete once others may be deleted too."""
    await control_plane.plans.create("ada", plan_draft())
    read = await feed.position()
    for _ in range(3):
        await control_plane.keys.create("ada", key_draft())
    with psycopg.connect(database_url) as connection:
        connection.execute("DELETE FROM changes WHERE number < %s", (read,))
    assert (await _next(feed, read)).complete
    with psycopg.connect(database_url) as connection:
        connection.execute("DELETE FROM changes WHERE number <= %s", (read + 1,))
    assert not (await _next(feed, read)).complete


async def test_a_feed_that_went_back_is_noticed(
    control_plane: ControlPlane, feed: PostgresChangeFeed, database_url: str
) -> None:
    """A restore from a backup is noticed, whether or not as many changes were made since as were lost."""
    await control_plane.plans.create("ada", plan_draft("a"))
    kept = await feed.position()
    await control_plane.plans.create("ada", plan_draft("lost"))
    position = await feed.position()
    assert (await feed.wait(position)).complete
    with psycopg.connect(database_url) as connection:
        connection.execute("DELETE FROM changes WHERE number > %s", (kept,))
    assert (await feed.wait(position)).gap is Gap.WENT_BACK
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO changes (number, kind, name, time) OVERRIDING SYSTEM VALUE "
            "SELECT number, 'plan', 'other', now() FROM generate_series(%s::bigint, %s) AS number",
            (kept + 1, position + 1),
        )
    assert (await feed.wait(position)).gap is Gap.WENT_BACK
    with psycopg.connect(database_url) as connection:
        connection.execute("DELETE FROM changes")
    assert (await feed.wait(position)).gap is Gap.WENT_BACK


_FAR = 2**62
"""Numbers below it are meant as so much ahead of the last one: what was written before a test is gone, and counted."""


def _last_number(database_url: str) -> int:
    with psycopg.connect(database_url) as connection:
        statement = "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('changes', 'number')::regclass), 0)"
        (last,) = connection.execute(statement).fetchone() or (0,)
    return int(last)


def _add_ahead(database_url: str, *numbers: int) -> None:
    with psycopg.connect(database_url) as connection:
        for number in numbers:
            connection.execute(
                "INSERT INTO changes (number, kind, name, time) OVERRIDING SYSTEM VALUE "
                "VALUES (%s, 'plan', 'x', now())",
                (number,),
            )


@pytest.mark.parametrize("numbers", [(_FAR,), (_FAR, _FAR + 1, 2**63 - 1), (1_000,)])
@pytest.mark.parametrize("reads", ["before", "after", "alone"])
async def test_a_number_far_ahead_hides_no_change(
    control_plane: ControlPlane, database: Database, database_url: str, numbers: tuple[int, ...], reads: str
) -> None:
    """The change after it is noticed, by a reader that began before or after; then it is ignored, and named."""
    unreadable = UnreadableRows()
    feed = PostgresChangeFeed(database, unreadable)
    last = _last_number(database_url)
    numbers = tuple(number if number >= _FAR else last + number for number in numbers)
    if reads != "alone":
        await control_plane.plans.create("ada", plan_draft("a"))
    position = await feed.position() if reads == "before" else 0
    _add_ahead(database_url, *numbers)
    if reads == "before":
        position = (await _next(feed, position)).position
    else:
        position = await feed.position()
    assert (await feed.wait(position)).complete
    await control_plane.plans.create("ada", plan_draft("b"))
    assert (await feed.wait(position)).gap is Gap.OUT_OF_ORDER
    position = await feed.position()
    assert position < min(numbers)
    for name in ("c", "d"):
        await control_plane.plans.create("ada", plan_draft(name))
        found = await _next(feed, position)
        assert (_names(found), found.complete) == ([name], True)
        position = found.position
    assert unreadable.current()["changes"] == 1
    with psycopg.connect(database_url) as connection:
        connection.execute("DELETE FROM changes WHERE number = ANY(%s)", (list(numbers),))
    assert (await feed.wait(position)).complete
    found_before = unreadable.counts["changes"]
    assert (await feed.wait(position)).complete
    assert unreadable.counts["changes"] == found_before
    await feed.close()


async def test_changes_that_a_new_reader_does_not_read_are_no_gap(
    control_plane: ControlPlane, feed: PostgresChangeFeed, database_url: str
) -> None:
    """A reader that begins when there are thousands takes none of those that it does not read for one that is missing.

    One far ahead is noticed all the same.
    """
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO changes (kind, name, time) SELECT 'key', 'x', now() FROM generate_series(1, 2500)"
        )
    position = await feed.position()
    assert (await feed.wait(position)).complete
    await control_plane.plans.create("ada", plan_draft("a"))
    found = await _next(feed, position)
    assert (_names(found), found.complete) == (["a"], True)
    _add_ahead(database_url, _FAR)
    position = await feed.position()
    await control_plane.plans.create("ada", plan_draft("b"))
    assert (await feed.wait(position)).gap is Gap.OUT_OF_ORDER
    position = await feed.position()
    assert (await feed.wait(position)).complete


async def test_numbers_that_reach_one_ahead_go_on(
    control_plane: ControlPlane, feed: PostgresChangeFeed, database_url: str
) -> None:
    """Changes whose numbers come after the one ahead are read like any other."""
    await control_plane.plans.create("ada", plan_draft("a"))
    position = await feed.position()
    _add_ahead(database_url, position + 3)
    position = (await _next(feed, position)).position
    await control_plane.plans.create("ada", plan_draft("b"))
    assert (await feed.wait(position)).gap is Gap.OUT_OF_ORDER
    position = await feed.position()
    with psycopg.connect(database_url) as connection:
        connection.execute("SELECT setval(pg_get_serial_sequence('changes', 'number'), %s)", (position + 2,))
    await control_plane.plans.create("ada", plan_draft("c"))
    assert _names(await _next(feed, position)) == ["c"]


async def test_heartbeats_come_with_the_changes_before_them(
    control_plane: ControlPlane, feed: PostgresChangeFeed, database: Database, database_url: str
) -> None:
    """Of several that beat, one does in a second; what is read has its age, by the clock of Postgres."""
    hearts = [PostgresHeartbeat(database) for _ in range(3)]
    assert (await feed.wait(0)).beat is None
    assert sorted(await asyncio.gather(*(heart.beat() for heart in hearts))) == [False, False, True]
    position = await feed.position()
    beat = (await feed.wait(position)).beat
    assert beat is not None
    assert 0 <= beat.lag < 2
    assert 0 <= monotonic() - beat.read_at < 5
    await control_plane.plans.create("ada", plan_draft())
    found = await _next(feed, position)
    assert found.beat is not None
    assert found.beat.time == beat.time
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE feed_heartbeat SET time = time + interval '1 hour'")
    assert await hearts[0].beat(), "the clock of Postgres was set back"
    for heart in hearts:
        await heart.close()


async def test_positions_count_up_without_skipping_a_change(
    control_plane: ControlPlane, feed: PostgresChangeFeed
) -> None:
    """The position returned with some changes is where the next read continues: each change is read once."""
    positions, seen = [0], []
    for name in ("a", "b", "c"):
        await control_plane.plans.create("ada", plan_draft(name))
        found = await _next(feed, positions[-1])
        positions.append(found.position)
        seen += _names(found)

    assert seen == ["a", "b", "c"]
    assert positions == sorted(set(positions))
    assert _names(await feed.wait(positions[1])) == ["b", "c"]


async def test_a_name_that_is_too_long_delays_no_change(
    control_plane: ControlPlane, database: Database, database_url: str
) -> None:
    """A row with megabytes in it is reported, and not read: changes after it come as soon as ever."""
    unreadable = UnreadableRows()
    feed = PostgresChangeFeed(database, unreadable)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute("INSERT INTO changes (kind, name, time) VALUES ('plan', repeat('x', 30000000), now())")
    await control_plane.plans.create("ada", plan_draft())

    began = monotonic()
    found = await feed.wait(0)

    assert (_names(found), unreadable.counts["changes"]) == (["free"], 1)
    assert monotonic() - began < 1.0
    await feed.close()


async def test_a_wait_without_changes_ends_within_a_second(feed: PostgresChangeFeed) -> None:
    """Without any change a wait ends after about a second with none, at the position it began."""
    began = monotonic()

    assert await feed.wait(0) == Changes(0, [])

    assert 0.5 < monotonic() - began < 1.5


async def test_a_notification_wakes_the_reader(control_plane: ControlPlane, feed: PostgresChangeFeed) -> None:
    """A change during a wait ends it at once, long before the next poll."""
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
    """A change that was not notified is found by the poll that runs each second."""
    await feed.position()
    waiting = asyncio.create_task(_next(feed, 0))
    await asyncio.sleep(0.1)

    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO changes (kind, name, time) VALUES ('plan', 'silent', now())")
    began = monotonic()

    assert _names(await waiting) == ["silent"]
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
    assert _names(first) == ["one"]
    assert monotonic() - began < 1

    waiting = asyncio.create_task(_next(feed, first.position))
    await asyncio.sleep(0.1)
    began = monotonic()
    await control_plane.plans.create("ada", plan_draft("two"))
    assert _names(await waiting) == ["two"]
    assert monotonic() - began < 1


async def test_a_connection_killed_between_two_waits_is_opened_again(
    control_plane: ControlPlane, feed: PostgresChangeFeed, database_url: str
) -> None:
    """A session that ended between two waits is replaced by the next wait, without an error."""
    await feed.position()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    await control_plane.plans.create("ada", plan_draft())

    assert _names(await feed.wait(0)) == ["free"]


async def test_a_session_that_hangs_is_replaced(feed: PostgresChangeFeed, database_url: str) -> None:
    """A session that stops responding is reported once, and the next wait has a session of its own."""
    await feed.position()
    with psycopg.connect(database_url, autocommit=True) as connection:
        ((session,),) = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND application_name <> %s",
            (EMPTIES,),
        ).fetchall()
    os.kill(session, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable):
            await feed.wait(0)
        assert await feed.wait(0) == Changes(0, [])
    finally:
        os.kill(session, signal.SIGCONT)


async def test_a_cancelled_wait_leaves_a_feed_that_works(control_plane: ControlPlane, feed: PostgresChangeFeed) -> None:
    """A reader that is cancelled in the middle of a wait, and begins again, misses nothing."""
    waiting = asyncio.create_task(_next(feed, 0))
    await asyncio.sleep(0.1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await control_plane.plans.create("ada", plan_draft())

    assert _names(await _next(feed, 0)) == ["free"]


async def test_a_dead_postgres_is_reported(unused_port: int) -> None:
    """A feed of a Postgres that does not run raises StoreUnavailable, without the password."""
    database = Database(f"postgresql://somebody:verysecret@127.0.0.1:{unused_port}/none")
    feed = PostgresChangeFeed(database)

    with pytest.raises(StoreUnavailable) as caught:
        await feed.position()
    with pytest.raises(StoreUnavailable):
        await feed.wait(0)

    assert "verysecret" not in str(caught.value)
    await database.close()
