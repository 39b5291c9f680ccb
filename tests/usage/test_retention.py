"""Retention: partitions exist before they are needed, and go when they are too old."""

import psycopg
import pytest

from fixtures.control_plane import DAY
from ratelimit_service.postgres import usage_retention
from ratelimit_service.postgres.usage_partitions import Partition
from ratelimit_service.usage.ports import LeaseLost
from usage.world import MINUTE, NOW_US, UsageWorld, of_key, query, totals, write_segment

MINUTES_PER_DAY = 1_440


def partitions(database_url: str, table: str) -> list[str]:
    """The names of the partitions of a table."""
    rows = query(
        database_url,
        "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
        " WHERE inhparent = %s::regclass ORDER BY 1",
        table,
    )
    return [name for (name,) in rows]


async def test_partitions_are_made_ahead(world: UsageWorld) -> None:
    """Those of the next days and of the next month exist before their first count; doing it again changes nothing."""
    term = await world.lead()
    for _ in range(2):
        await world.archive.tidy(term)

        for kind in ("usage", "usage_limit", "usage_plan"):
            assert partitions(world.database_url, f"{kind}_minute") == [
                f"{kind}_minute_p{day}" for day in (20261124, 20261125, 20261126, 20261225)
            ]
            for level in ("hour", "day"):
                assert partitions(world.database_url, f"{kind}_{level}") == [
                    f"{kind}_{level}_p202611",
                    f"{kind}_{level}_p202612",
                ]


async def test_what_is_too_old_is_dropped(world: UsageWorld) -> None:
    """Each level is dropped after its own time, and series that nothing counts any more go with the last of them."""
    write_segment(world.client, {of_key("old"): [1]}, minute=MINUTE - 6 * MINUTES_PER_DAY)
    write_segment(world.client, {of_key("new"): [1]}, number=2)
    await world.flush_all()
    kept = {}
    for days in (0, 3, 120, 1_200):
        world.clock.us = NOW_US + days * DAY
        term = await world.lead()
        await world.archive.tidy(term)
        await world.lease.release(term)
        kept[days] = {level: sorted(totals(world.database_url, level)) for level in ("minute", "hour", "day")}

    assert kept[0] == {level: ["new", "old"] for level in ("minute", "hour", "day")}
    assert kept[3] == {"minute": ["new"], "hour": ["new", "old"], "day": ["new", "old"]}
    assert kept[120] == {"minute": [], "hour": [], "day": ["new", "old"]}
    assert kept[1_200] == {"minute": [], "hour": [], "day": []}
    assert query(world.database_url, "SELECT count(*) FROM usage_series") == [(0,)]


async def test_series_are_deleted_in_every_round(world: UsageWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those without counts go, some in each round, also if no partition was dropped; those with counts stay."""
    monkeypatch.setattr(usage_retention, "SERIES_AT_ONCE", 2)
    monkeypatch.setattr(usage_retention, "SERIES_PER_ROUND", 6)
    write_segment(world.client, {of_key("new"): [1]})
    await world.flush_all()
    with psycopg.connect(world.database_url) as connection:
        connection.execute(
            "INSERT INTO usage_series (digest, kind, key_id, resource, subject, plan, domain, rule)"
            " SELECT decode(md5(number::text), 'hex'), 'key', number::text, '', '', '', '', ''"
            " FROM generate_series(1, 9) AS number"
        )
    term = await world.lead()
    left = []
    for _ in range(3):
        await world.archive.tidy(term)
        left.append(query(world.database_url, "SELECT count(*) FROM usage_series")[0][0])
    assert left == [5, 1, 1]
    assert totals(world.database_url, "day") == {"new": (1, 0, 0, 0, 0)}


async def test_the_first_counts_after_series_were_deleted(world: UsageWorld) -> None:
    """A leader that deleted series does not refer to them by what it remembers."""
    write_segment(world.client, {of_key("k1"): [1]})
    term = await world.lead()
    await world.flush.flush_all(term)
    world.clock.us += 2_000 * DAY
    await world.archive.tidy(term)
    write_segment(world.client, {of_key("k1"): [5]}, number=2, minute=world.clock.us // 60_000_000)

    await world.flush.flush_all(term)

    assert totals(world.database_url, "day") == {"k1": (5, 0, 0, 0, 0)}


async def test_counts_older_than_their_retention(world: UsageWorld) -> None:
    """Counts that come after their minutes were dropped still count in the levels that are kept."""
    write_segment(world.client, {of_key("k1"): [3]}, minute=MINUTE - 30 * MINUTES_PER_DAY)

    await world.flush_all()

    assert totals(world.database_url, "minute") == {}
    assert totals(world.database_url, "hour") == {"k1": (3, 0, 0, 0, 0)}
    assert partitions(world.database_url, "usage_minute") == []


async def test_a_partition_in_use_is_dropped_later(world: UsageWorld) -> None:
    """A query that is running is not waited for, and does not keep other partitions from being dropped."""
    for number in (1, 2):
        write_segment(world.client, {of_key("k1"): [1]}, number=number, minute=MINUTE - (4 - number) * MINUTES_PER_DAY)
    await world.flush_all()
    world.clock.us += 6 * DAY
    term = await world.lead()
    with psycopg.connect(world.database_url) as reader:
        reader.execute("SELECT * FROM usage_minute_p20261121").fetchall()
        await world.archive.tidy(term)
        during = partitions(world.database_url, "usage_minute")
    await world.archive.tidy(term)

    assert "usage_minute_p20261121" in during
    assert partitions(world.database_url, "usage_minute")[0] > "usage_minute_p20261123"


async def test_markers_are_kept_for_a_week(world: UsageWorld) -> None:
    """Old markers go, but for the newest of each tag, by which the next gap is seen."""
    for number in (1, 2, 3):
        write_segment(world.client, {of_key("k1"): [1]}, number=number, minute=MINUTE + number)
        await world.flush_all()
    with psycopg.connect(world.database_url) as connection:
        connection.execute("UPDATE usage_segments SET flush_time = flush_time - interval '9 days'")
    world.clock.us = max(NOW_US, world.clock.us)
    term = await world.lead()

    world.clock.us = int(query(world.database_url, "SELECT extract(epoch FROM now()) * 1e6")[0][0])
    await world.archive.tidy(term)

    assert query(world.database_url, "SELECT number FROM usage_segments") == [(3,)]


async def test_a_former_leader_drops_nothing(world: UsageWorld) -> None:
    """Retention checks the term too."""
    term = await world.lead()
    await world.lease.release(term)
    async with UsageWorld(world.redis_url, world.database_url, holder="another") as another:
        await another.lead()

        with pytest.raises(LeaseLost):
            await world.archive.tidy(term)

    assert partitions(world.database_url, "usage_day") == []


def test_partitions_of_a_time() -> None:
    """A day for minutes, a month for hours and days; the name says which."""
    for level, table in [("minute", "usage_minute_p20261124"), ("hour", "usage_hour_p202611")]:
        partition = Partition.named(level, table)
        assert partition is not None
        assert partition.table("usage") == table
        assert Partition.at(level, partition.start) == partition
        assert Partition.at(level, partition.end).start == partition.end
    december = Partition.named("day", "usage_day_p202612")
    assert december is not None
    assert december.end.isoformat() == "2027-01-01T00:00:00+00:00"
    assert Partition.named("day", "usage_day_of_mine") is None
