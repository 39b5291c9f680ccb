"""A change that cannot be read is skipped and named; those after it follow at once."""

import asyncio

import psycopg
import pytest
from structlog.testing import capture_logs

from fixtures.control_plane import ControlPlane, key_draft, plan_draft
from ratelimit_service.decision.ports import Change, ChangeKind
from ratelimit_service.postgres.change_feed import PostgresChangeFeed
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.unreadable_rows import UnreadableRows


@pytest.mark.parametrize("row", [("moon", "x"), ("key", None), (None, "x"), ("", "")])
async def test_a_change_of_an_unknown_kind_stops_no_other(
    loose_database: Database, loose_url: str, row: tuple[str | None, str | None]
) -> None:
    """Of three changes the second is written by hand and unknown: the others arrive, and it is named."""
    control_plane, unreadable = ControlPlane(loose_database), UnreadableRows()
    feed = PostgresChangeFeed(loose_database, unreadable)
    await control_plane.plans.create("ada", plan_draft())
    with psycopg.connect(loose_url) as connection:
        connection.execute("INSERT INTO changes (kind, name, time) VALUES (%s, %s, now())", row)
    key, _ = await control_plane.keys.create("ada", key_draft())

    with capture_logs() as logs:
        async with asyncio.timeout(1):
            found = await feed.wait(await feed.position() - 3)

    assert list(found.changes) == [Change(ChangeKind.PLAN, "free"), Change(ChangeKind.KEY, key.key_id)]
    assert found.position == await feed.position()
    assert unreadable.counts["changes"] == 1
    assert [(line["table"], line["row"]) for line in logs] == [("changes", f"number {found.position - 1}")]
    await feed.close()
