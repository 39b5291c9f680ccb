"""What is deleted when it is old enough, on a real Postgres."""

import psycopg
import pytest

from fixtures.control_plane import DAY, START, ControlPlane, plan_draft
from ratelimit_service.management import retention
from ratelimit_service.management.paging import Paging
from ratelimit_service.management.plans import PlanChanges
from ratelimit_service.management.retention import OUTBOX_DAYS, Pruned, Retention
from ratelimit_service.postgres.change_feed import PostgresChangeFeed


def numbers(database_url: str) -> list[int]:
    """The numbers of the rows in the outbox."""
    with psycopg.connect(database_url) as connection:
        return [number for (number,) in connection.execute("SELECT number FROM changes ORDER BY number")]


async def change(plane: ControlPlane, days: int) -> None:
    """Make a change on a day after the first."""
    plane.clock.us = START + days * DAY
    await plane.plans.update("ada", "free", PlanChanges(description=f"day {days}"))


async def test_old_changes_leave_the_outbox(control_plane: ControlPlane, database_url: str) -> None:
    """Changes of more than 7 days ago are deleted, those of 7 days ago and later are kept."""
    await control_plane.plans.create("ada", plan_draft())
    for days in (1, 2, 3):
        await change(control_plane, days)
    before = numbers(database_url)

    pruned = await Retention(control_plane.transactions, audit_days=0).prune(START + (2 + OUTBOX_DAYS) * DAY)

    assert pruned == Pruned(changes=2, audit_events=0)
    assert numbers(database_url) == before[2:]


async def test_the_feed_goes_on_after_everything_was_pruned(control_plane: ControlPlane, database_url: str) -> None:
    """The newest change is never deleted: positions do not go back, and the next change comes after them."""
    await control_plane.plans.create("ada", plan_draft())
    await change(control_plane, 1)
    feed = PostgresChangeFeed(control_plane.database)
    position = await feed.position()

    keeper = Retention(control_plane.transactions, audit_days=0)
    assert (await keeper.prune(START + 1000 * DAY)).changes == 1
    assert (await keeper.prune(START + 1000 * DAY)).changes == 0

    assert await feed.position() == position == numbers(database_url)[0]
    await change(control_plane, 1001)
    found = await feed.wait(position)
    assert [one.name for one in found.changes] == ["free"]
    assert found.position > position
    await feed.close()


async def test_an_empty_outbox_is_left_alone(control_plane: ControlPlane) -> None:
    """Without any change there is nothing to delete."""
    assert await Retention(control_plane.transactions, audit_days=1).prune(START) == Pruned(0, 0)


async def test_old_audit_events_are_deleted(control_plane: ControlPlane) -> None:
    """Events older than the setting are deleted, younger ones kept; 0 days keeps all of them."""
    await control_plane.plans.create("ada", plan_draft())
    for days in (1, 2, 3):
        await change(control_plane, days)

    assert (await Retention(control_plane.transactions, audit_days=0).prune(START + 9999 * DAY)).audit_events == 0
    pruned = await Retention(control_plane.transactions, audit_days=30).prune(START + 32 * DAY)

    assert pruned.audit_events == 2
    left = [recorded.event.detail["description"] for recorded in (await control_plane.audit.list(Paging())).items]
    assert left == ["day 3", "day 2"]


async def test_rows_are_deleted_in_chunks(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows are deleted by several transactions, and one call ends after a number of them; the next goes on."""
    monkeypatch.setattr(retention, "_CHUNK", 2)
    monkeypatch.setattr(retention, "_MAX_CHUNKS", 2)
    for number in range(6):
        await control_plane.plans.create("ada", plan_draft(f"p{number}"))
    keeper = Retention(control_plane.transactions, audit_days=1)

    counts = [await keeper.prune(START + 99 * DAY) for _ in range(3)]

    assert counts == [Pruned(4, 4), Pruned(1, 2), Pruned(0, 0)]
