"""What a worker counts by itself, and how it hands that over."""

from collections.abc import Sequence

import pytest

from decision.memory import START_US, ManualClock, burst
from ratelimit_service.decision.charge import Bucket, Charge, ChargeResult, Counted, LimitResult
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.decision.usage import OTHER, Series
from ratelimit_service.decision.usage_tally import MAX_ROWS, UsageRow, UsageSender, UsageTally

MINUTE = START_US // 60_000_000
ONE, TWO = Series.of_rule("edge", "one", ["burst"]), Series.of_rule("edge", "two", ["burst"])


class MemoryUsage:
    """A store of counts that can be switched off."""

    def __init__(self) -> None:
        self.batches: dict[str, list[UsageRow]] = {}
        self.down = False

    async def add(self, batch_id: str, rows: Sequence[UsageRow]) -> None:
        if self.down:
            raise StoreUnavailable("Redis is down")
        self.batches.setdefault(batch_id, list(rows))


def test_counts_are_summed_by_minute_and_series() -> None:
    """Equal series of a minute are one row, whichever object they came with; the next minute is another row."""
    clock = ManualClock()
    tally = UsageTally(clock)
    tally.add(ONE, (1, 5))
    tally.add(Series(ONE.field), (0, 0, 1, 0, 0, 1))
    tally.add(TWO, (1, 1))
    clock.time_us += 60_000_000
    tally.add(ONE, (1, 1))
    assert tally.take(10) == [
        UsageRow(MINUTE, ONE.field, [1, 5, 1, 0, 0, 1]),
        UsageRow(MINUTE, TWO.field, [1, 1]),
        UsageRow(MINUTE + 1, ONE.field, [1, 1]),
    ]


def test_what_does_not_fit_is_lost_visibly() -> None:
    """Beyond the cap new series are lost calls, those that have a row count on, and what was sent makes room."""
    tally = UsageTally(ManualClock(), max_bytes=700)
    tally.add(ONE, (1, 1))
    tally.add(TWO, (0, 0, 1, 0, 1))
    tally.add(TWO, (2, 9))
    tally.add(TWO, (0, -3))
    tally.add(ONE, (1, 1))
    assert tally.lost == 3
    rows = tally.take(10)
    assert rows == [UsageRow(MINUTE, ONE.field, [2, 2])]
    tally.add(TWO, (1, 1))
    assert tally.lost == 4
    tally.release(rows)
    tally.add(TWO, (1, 1))
    assert tally.lost == 4
    assert tally.bytes > 0


def test_a_key_with_ever_new_resources_takes_no_room_of_others() -> None:
    """While the store is away a caller who sends a new resource with each call loses their names, and nobody a call."""
    tally = UsageTally(ManualClock(), max_bytes=100_000)
    for number in range(1_000):
        tally.add(Series.of_key("k1", f"resource-{number}", "acme", "free", ["burst"]), (1, 2))
    for number in range(20):
        tally.add(Series.of_key(f"other-{number}", "orders", "globex", "free", ["burst"]), (0, 0, 1, 0, 0, 1))
    rows = {row.field: list(row.counts) for row in tally.take(1_000)}
    assert tally.lost == 0
    assert sum(counts[0] for counts in rows.values()) == 1_000
    assert rows[Series.of_key("k1", OTHER, "acme", "free", ["burst"]).field][0] > 500
    assert sum(counts[2] for field, counts in rows.items() if b"globex" in field) == 20
    assert tally.bytes <= 100_000


async def test_all_rows_are_sent_in_batches() -> None:
    """More rows than a batch may have are sent in several, each under its own id."""
    tally, store = UsageTally(ManualClock()), MemoryUsage()
    for number in range(MAX_ROWS + 5):
        tally.add(Series.of_rule("edge", f"rule-{number}", []), (1, 1))
    assert await UsageSender(tally, store).flush()
    assert [len(rows) for rows in store.batches.values()] == [MAX_ROWS, 5]
    assert tally.bytes == 0


async def test_what_is_left_at_the_end_is_lost_visibly() -> None:
    """A worker that ends while the store is away notes the calls that it could not hand over, sent or not."""
    tally, store = UsageTally(ManualClock()), MemoryUsage()
    sender = UsageSender(tally, store)
    store.down = True
    tally.add(ONE, (1, 1))
    assert not await sender.flush()
    tally.add(TWO, (2, 2))
    await sender.close()
    assert tally.lost == 3


async def test_nothing_is_lost_at_an_orderly_end() -> None:
    """A worker that ends hands over what it has."""
    tally, store = UsageTally(ManualClock()), MemoryUsage()
    tally.add(ONE, (1, 1))
    await UsageSender(tally, store).close()
    assert list(store.batches.values()) == [[UsageRow(MINUTE, ONE.field, [1, 1])]]
    assert tally.lost == 0


@pytest.mark.parametrize("degraded", [False, True])
def test_a_charge_is_counted_as_the_script_would(degraded: bool) -> None:
    """Calls, refunds and denials by limit; degraded counts calls only."""
    tally = UsageTally(ManualClock())
    buckets = tuple(Bucket(name, 0, burst()) for name in "ab")
    full, free = LimitResult(0, 5, 5), LimitResult(1, 0, 0)
    counted = (Counted(ONE, 2, 1, (0, 1)), Counted(TWO, -2, 0, (1,)))
    tally.charged(Charge(buckets, (1, 1), "", counted), ChargeResult(False, (full, full)), degraded=degraded)
    tally.charged(Charge(buckets, (1, 1), "", counted), ChargeResult(True, (free, free)), degraded=degraded)
    rows = {row.field: list(row.counts) for row in tally.take(10)}
    assert rows == {ONE.field: [1, 2, 1, 0, 2 * degraded, 1, 0], TWO.field: [0, -2, 0, 0, 0, 0, 0]}


def test_late_answers_add_degraded_alone() -> None:
    """Calls that the script counted, and that were decided without it, become degraded ones; refunds do not."""
    tally = UsageTally(ManualClock())
    charge = Charge((Bucket("a", 0, burst()),), (1,), "", (Counted(ONE, 1), Counted(TWO, -1, 0)))
    tally.answered_late([charge, charge])
    tally.unanswered([charge, charge])
    assert tally.take(10) == [UsageRow(MINUTE, ONE.field, [0, 0, 0, 0, 2])]
    assert tally.unconfirmed == 2
