"""The flush: what the store has counted is in the archive, at each level, once."""

import asyncio
import struct
import time

import psycopg
import pytest

from ratelimit_service.postgres import usage_archive, usage_series
from ratelimit_service.postgres.usage_series import digest_of
from ratelimit_service.usage.flush import GAP, MAX_AHEAD, RESTARTED, UNREADABLE, VANISHED, WENT_BACK
from ratelimit_service.usage.ports import Frozen, Queue
from ratelimit_service.usage.segment import MINUTE_US, SegmentRef, Series
from usage.world import (
    MINUTE,
    UsageWorld,
    leftovers,
    limit_totals,
    losses,
    of_key,
    of_rule,
    plan_totals,
    query,
    totals,
    write_segment,
)

LEVELS = ("minute", "hour", "day")


async def test_counts_are_moved(world: UsageWorld) -> None:
    """Every level has the counts of keys and rules, by limit and by plan too, and the store has no segment left."""
    write_segment(
        world.client, {of_key("k1", "burst", "daily"): [7, 9, 3, 1, 2, 3, 0, 0, 1], of_rule("edge", "a=b"): [4]}
    )
    write_segment(
        world.client, {of_key("k1", "burst", "daily"): [1, 1], of_key("k2"): [5, -2]}, number=2, minute=MINUTE + 1
    )

    await world.flush_all()

    for level in LEVELS:
        assert totals(world.database_url, level) == {
            "k1": (8, 3, 10, 1, 2),
            "a=b": (4, 0, 0, 0, 0),
            "k2": (5, 0, -2, 0, 0),
        }
        assert limit_totals(world.database_url, level) == {"burst": (3, 0), "daily": (0, 1)}
        assert plan_totals(world.database_url, level) == {("free", ""): 16, ("", "edge"): 4}
    assert leftovers(world.client) == {"segments": 0, "queues": 0, "bytes": 0}
    assert losses(world.database_url) == []
    assert (world.tally.rows, world.tally.segments, world.tally.flushes) == (4, 2, 1)


async def test_counts_behind_those_of_limits_are_moved(world: UsageWorld) -> None:
    """Every level has what follows the pairs of limits: what they did not take, and what became of reservations."""
    write_segment(
        world.client, {of_key("k1", "a", "b"): [2, 90, 0, 0, 0, 0, 0, 0, 0, 40, 7, 3], of_key("k2", "a"): [1, 1]}
    )
    write_segment(world.client, {of_key("k1", "a", "b"): [1, 5, 0, 0, 0, 0, 0, 0, 0, 2]}, number=2, minute=MINUTE + 1)

    await world.flush_all()

    for level in LEVELS:
        for family in ("", "plan_"):
            sums = "sum(clamped)::bigint, sum(reserved)::bigint, sum(settled)::bigint"
            assert query(world.database_url, f"SELECT {sums} FROM usage_{family}{level}") == [(42, 7, 3)]
    assert losses(world.database_url) == []


async def test_bins_begin_at_whole_minutes_hours_and_days(world: UsageWorld) -> None:
    """Times are the starts of bins in UTC, and a key was last used in the last minute in which it was called."""
    write_segment(world.client, {of_key("k1"): [1]}, minute=MINUTE - 1)
    write_segment(world.client, {of_key("k1"): [1], of_key("k2"): [0, -5]}, number=2)

    await world.flush_all()

    starts = {
        level: [
            str(row[0]) for row in query(world.database_url, f"SELECT DISTINCT {level} FROM usage_{level} ORDER BY 1")
        ]
        for level in LEVELS
    }
    assert starts["minute"] == ["2026-11-24 05:59:00+00:00", "2026-11-24 06:00:00+00:00"]
    assert starts["hour"] == ["2026-11-24 05:00:00+00:00", "2026-11-24 06:00:00+00:00"]
    assert starts["day"] == ["2026-11-24 00:00:00+00:00"]
    used = [(key, str(time)) for key, time in query(world.database_url, "SELECT * FROM key_last_used")]
    assert used == [("k1", "2026-11-24 06:00:00+00:00")]  # a refund is no use


async def test_late_counts_go_to_their_own_minute(world: UsageWorld) -> None:
    """A field with a minute counts in that one, and never moves `last_used` back."""
    late = b"%d\x1e" % (MINUTE - 90) + of_key("k1")
    write_segment(world.client, {of_key("k1"): [1], late: [10]})

    await world.flush_all()

    rows = query(world.database_url, "SELECT minute::text, allowed FROM usage_minute ORDER BY 1")
    assert rows == [("2026-11-24 04:30:00+00", 10), ("2026-11-24 06:00:00+00", 1)]
    assert query(world.database_url, "SELECT last_used::text FROM key_last_used") == [("2026-11-24 06:00:00+00",)]


async def test_a_coarse_segment_counts_in_its_first_minute(world: UsageWorld) -> None:
    """Minutes that the store merged are one minute in the archive, and a metric says so; so it does of `other`."""
    write_segment(world.client, {of_key("k1"): [600]}, coarse=True, overflow=40)

    await world.flush_all()

    assert query(world.database_url, "SELECT minute::text, allowed FROM usage_minute") == [
        ("2026-11-24 06:00:00+00", 600)
    ]
    assert (world.tally.merged_segments, world.tally.other_calls) == (1, 40)


async def test_a_segment_is_added_once(world: UsageWorld) -> None:
    """One that was flushed but not removed is removed by the next flush, without being added or reported."""
    write_segment(world.client, {of_key("k1"): [3]})
    await world.flush_all()
    write_segment(world.client, {of_key("k1"): [3]})

    await world.flush_all()

    assert totals(world.database_url, "day") == {"k1": (3, 0, 0, 0, 0)}
    assert leftovers(world.client) == {"segments": 0, "queues": 0, "bytes": 0}
    assert losses(world.database_url) == []


async def test_a_store_that_went_back_and_counted_on_is_reported(world: UsageWorld) -> None:
    """What was counted in a segment after its flush is not added, but reported as lost, once."""
    write_segment(world.client, {of_key("k1"): [3]})
    await world.flush_all()
    write_segment(world.client, {of_key("k1"): [5]})
    await world.flush_all()
    write_segment(world.client, {of_key("k1"): [5]})

    await world.flush_all()

    assert totals(world.database_url, "day") == {"k1": (3, 0, 0, 0, 0)}
    assert losses(world.database_url) == [(WENT_BACK, 2)]
    assert (world.tally.losses, world.tally.lost_calls) == ({WENT_BACK: 1}, 2)


@pytest.mark.parametrize(
    ("numbers", "causes"),
    [
        ([1, 2, 3], []),
        ([1, 2, 5, 6], [GAP]),
        ([7, 8, 1, 2], [RESTARTED]),
        ([7, 8, 6, 7], [WENT_BACK]),
        ([40, 41], []),  # the first that this database ever sees
    ],
)
@pytest.mark.parametrize("together", [True, False])
async def test_numbers_without_gaps(world: UsageWorld, numbers: list[int], causes: list[str], together: bool) -> None:
    """A number that is missing, or goes back, is a loss that is reported once; what is there is counted."""
    for at, number in enumerate(numbers):
        write_segment(world.client, {of_key("k1"): [1]}, number=number, minute=MINUTE + at)
        if not together:
            await world.flush_all()

    await world.flush_all()

    assert losses(world.database_url) == [(cause, 0) for cause in causes]
    assert totals(world.database_url, "minute") == {"k1": (len(numbers), 0, 0, 0, 0)}


async def test_a_gap_is_seen_by_another_leader_too(world: UsageWorld) -> None:
    """The last number is known from the database: a process that has just begun to lead misses no gap."""
    write_segment(world.client, {of_key("k1"): [1]}, number=8)
    await world.flush_all()
    write_segment(world.client, {of_key("k1"): [1]}, number=10, minute=MINUTE + 2)

    async with UsageWorld(world.redis_url, world.database_url, holder="another") as another:
        await another.flush_all()

    assert losses(world.database_url) == [(GAP, 0)]
    (row,) = query(world.database_url, "SELECT start_time::text, end_time::text FROM usage_losses")
    assert row == ("2026-11-24 06:00:00.000005+00", "2026-11-24 06:02:00.000005+00")


async def test_a_segment_that_vanished_is_reported(world: UsageWorld) -> None:
    """A name in the queue without its segment is a loss, unless the segment was flushed before."""
    vanished = write_segment(world.client, {of_key("k1"): [1]})
    world.client.delete(f"{{u}}:u:s:{vanished}")
    await world.flush_all()
    flushed = write_segment(world.client, {of_key("k1"): [1]}, number=2)
    await world.flush_all()
    world.client.rpush("{u}:u:q", flushed)

    await world.flush_all()

    assert losses(world.database_url) == [(VANISHED, 0)]
    assert leftovers(world.client) == {"segments": 0, "queues": 0, "bytes": 0}
    assert totals(world.database_url, "hour") == {"k1": (1, 0, 0, 0, 0)}


async def test_a_field_that_cannot_be_read_harms_itself_alone(world: UsageWorld) -> None:
    """A malformed field is reported; the other fields of its segment are counted."""
    bad = {
        b"X\x1fwhat": [1.0],
        of_key("k2"): [float("nan")],
        b"9999999999999\x1e" + of_key("k3"): [1.0],
        of_key("k4"): [1e300],
        of_key("k5"): [2.0**62],
        b"%d\x1e" % (MINUTE + 1) + of_key("k6"): [1.0],
        of_key("k7", "l" * 4_000): [1.0],
        of_key("k" * 4_000): [1.0],
        of_rule("d" * 4_000, "a=b"): [1.0],
    }
    write_segment(world.client, {of_key("k1"): [2], of_key("nul\0"): [1], **bad})

    await world.flush_all()

    assert losses(world.database_url) == [(UNREADABLE, 0)]
    assert world.tally.unreadable == 9
    assert totals(world.database_url, "day") == {"k1": (2, 0, 0, 0, 0), "nul\ufffd": (1, 0, 0, 0, 0)}


async def test_costs_beyond_all_reason_are_counted_as_the_most(world: UsageWorld) -> None:
    """The largest costs, millions of times a minute, harm neither the count of calls nor the sums of days."""
    fields = {of_key("k1"): [5.0, 2.0**62, 3.0], of_key("k2"): [1.0, -(2.0**62)], of_key("k3"): [1.0, 2.0**53]}
    for number in (1, 2):
        write_segment(world.client, fields, number=number)

    await world.flush_all()

    assert world.tally.unreadable == 0
    most = 2 * 10**13
    found = {key: counts[:3] for key, counts in totals(world.database_url, "day").items()}
    assert found == {"k1": (10, 6, most), "k2": (2, 0, -most), "k3": (2, 0, most)}


async def test_a_queue_with_an_invalid_name_is_flushed(world: UsageWorld) -> None:
    """What names no segment is removed, and what is behind it is flushed, also if its meta is damaged."""
    for name in ("nan.nan", "1", "one.2", "1." + "9" * 18, b"\xff"):
        world.client.rpush("{u}:u:q", name)
    damaged = [b"short", struct.pack("<9d", *[float("nan")] * 9), struct.pack("<9d", 3, 5, 5, 1e300, 0, 0, 0, 0, 0)]
    for number, meta in enumerate(damaged, start=1):
        name = write_segment(world.client, {of_key("k1"): [2]}, number=number)
        world.client.hset(f"{{u}}:u:s:{name}", "", meta)

    await world.flush_all()

    assert totals(world.database_url, "day") == {"k1": (6, 0, 0, 0, 0)}
    assert leftovers(world.client) == {"segments": 0, "queues": 0, "bytes": 0}


async def test_a_large_segment_gets_more_time(world: UsageWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that a transaction may take grows with its rows: else one that is too large would stop all flushes."""
    monkeypatch.setattr(usage_archive, "FLUSH_SECONDS", 0.5)
    monkeypatch.setattr(usage_archive, "STATEMENT_SECONDS", 0.5)
    write_segment(world.client, {of_key("k0"): [1]})
    await world.flush_all()
    write_segment(world.client, {of_key(f"k{number}"): [1] for number in range(9_000)}, number=2)

    with psycopg.connect(world.database_url) as connection:
        connection.execute("LOCK TABLE usage_minute IN EXCLUSIVE MODE")  # which makes the flush take a second more
        task = asyncio.create_task(world.flush_all())
        await asyncio.sleep(1.2)
        connection.rollback()
        await task

    assert len(totals(world.database_url, "minute")) == 9_000


async def test_a_transaction_is_not_idle_for_long(world: UsageWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """New series are numbered some at a time: to prepare them all takes longer than Postgres waits for a statement."""

    def slow_digest(series: Series) -> bytes:
        time.sleep(0.001)
        return digest_of(series)

    monkeypatch.setattr(usage_archive, "IDLE_SECONDS", 0.5)
    monkeypatch.setattr(usage_series, "CHUNK", 100)
    monkeypatch.setattr(usage_series, "digest_of", slow_digest)
    write_segment(world.client, {of_key(f"k{number}"): [1] for number in range(2_000)})

    await world.flush_all()

    assert len(totals(world.database_url, "minute")) == 2_000


async def test_large_segments_and_backlogs(world: UsageWorld) -> None:
    """A segment of many thousand fields, and a queue longer than one reading, are moved whole."""
    write_segment(world.client, {of_key(f"k{number}", "burst"): [1, 2, 3, 0, 0, 3] for number in range(5_000)})
    for number in range(2, 602):
        write_segment(world.client, {of_key("k0", "burst"): [1]}, number=number, minute=MINUTE + number)
    world.flush._max_rows = 700

    await world.flush_all()

    moved = totals(world.database_url, "minute")
    assert len(moved) == 5_000
    assert moved["k0"] == (601, 3, 2, 0, 0)
    assert moved["k4999"] == (1, 3, 2, 0, 0)
    assert limit_totals(world.database_url, "minute") == {"burst": (15_000, 0)}
    assert losses(world.database_url) == []
    assert leftovers(world.client) == {"segments": 0, "queues": 0, "bytes": 0}


def complete_until(world: UsageWorld) -> int:
    """The minute (since 1970) before which the archive has all counts, as the last flush wrote it down."""
    ((seconds,),) = query(world.database_url, "SELECT extract(epoch FROM complete_until)::bigint FROM usage_coverage")
    return int(seconds) // 60


async def test_how_far_usage_is_complete_without_calls(world: UsageWorld) -> None:
    """Each flush writes down up to which minute all is moved: it advances with the clock though nothing is counted."""
    write_segment(world.client, {of_key("k1"): [1]})

    for _ in range(3):
        await world.flush_all()
        assert complete_until(world) == world.clock.now_us() // MINUTE_US
        world.clock.us += MINUTE_US


async def test_usage_is_complete_up_to_what_is_left(world: UsageWorld) -> None:
    """What is not moved yet, of any tag, bounds it: a queue's oldest segment, an open one, and a tag out of reach."""
    now = world.clock.now_us() // MINUTE_US
    ref = SegmentRef("{p7}", f"1.{(now - 4) * MINUTE_US}")
    queue = Queue(ref.tag, [ref.name], 1, 100)
    answers = [
        (Frozen([], now - 3), now - 3),
        (Frozen([queue], now - 1), now - 4),
        (Frozen([], now - 1, complete=False), now - 4),
        (Frozen([], now), now),
        (Frozen([], None), now),
    ]
    term = await world.lead()
    for frozen, expected in answers:
        await world.flush._cover(term, frozen, now)
        assert complete_until(world) == expected


async def test_the_backlog_is_measured(world: UsageWorld) -> None:
    """What is covered ends before the oldest minute that is not flushed; with nothing left it is up to now."""
    for number in range(3):
        write_segment(world.client, {of_key("k1"): [1]}, number=number + 1, minute=MINUTE + number)

    frozen = await world.store.freeze()
    world.flush._report_backlog(frozen.queues, world.clock.now_us())

    assert (world.tally.backlog_segments, world.tally.backlog_bytes) == (3, 300)
    assert world.tally.covered_us == (MINUTE + 1) * MINUTE_US
    await world.flush_all()
    assert (world.tally.backlog_segments, world.tally.backlog_bytes) == (0, 0)
    assert world.tally.covered_us == world.clock.now_us()


async def test_counts_of_a_far_future_are_left_out(world: UsageWorld) -> None:
    """Who can write to the store has no partitions made for days to come, and counts of now are moved beside them."""
    ahead = MAX_AHEAD + 60
    future = {
        f"{MINUTE + ahead + day * 1_440}\x1e".encode() + of_key("k1", "a"): [1, 1, 1, 0, 0, 1] for day in range(40)
    }
    write_segment(
        world.client, {**future, of_key("k1"): [1], f"{MINUTE}\x1e".encode() + of_key("k2"): [2]}, minute=MINUTE + 10**6
    )
    write_segment(world.client, {of_key("k3"): [3]}, number=2, minute=MINUTE + 1)
    before = query(world.database_url, "SELECT count(*) FROM pg_inherits")

    await world.flush_all()

    assert {key: counts[0] for key, counts in totals(world.database_url, "minute").items()} == {"k2": 2, "k3": 3}
    assert query(world.database_url, "SELECT count(*) FROM pg_inherits")[0][0] - before[0][0] < 60
    assert [loss[0] for loss in losses(world.database_url)] == [UNREADABLE]
    assert leftovers(world.client)["segments"] == 0


@pytest.mark.parametrize("number", ["inf", "x", "1.5", "-1e99", "9" * 40])
async def test_numbers_of_others_end_no_flush(world: UsageWorld, number: str) -> None:
    """What somebody else wrote in place of a number of the store is removed, and counts are moved all the same."""
    write_segment(world.client, {of_key("k1"): [1]})
    for field in ("seq", "bytes", "lost", "squeezed"):
        world.client.hset("{u}:u:n", field, number)

    await world.flush_all()

    assert totals(world.database_url, "minute")["k1"][0] == 1
    assert world.store.lost == 0
