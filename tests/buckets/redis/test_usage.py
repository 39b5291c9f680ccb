"""What the charge script counts, on a real store."""

from collections.abc import Iterator
from itertools import count, pairwise

import pytest

from buckets.clocked import ClockedStore
from buckets.redis.usage import MINUTE_US, UsageReader
from ratelimit_service.decision.charge import REPORTED, Bucket, Charge, Counted, Reserve, Return, Settle
from ratelimit_service.decision.limit import MICRO, Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.usage import Counts, Series, parse_field

NOW_US = 1_800_000_000_000_000
MINUTE = NOW_US // MINUTE_US
_numbers = count()


@pytest.fixture
def store(emptied_valkey_url: str) -> Iterator[ClockedStore]:
    """A store with nothing in it, and a clock."""
    with ClockedStore(emptied_valkey_url, "clock:usage") as clocked:
        clocked.client.flushdb()
        yield clocked


@pytest.fixture
def usage(store: ClockedStore) -> UsageReader:
    """Reads what was counted."""
    return UsageReader(store.client)


def _new_bucket(capacity: int, name: str = "burst", mode: Mode = Mode.ENFORCE) -> Bucket:
    return Bucket(f"usage.{next(_numbers)}", 0, Limit(name, Quota(capacity, Window.DAY), mode=mode))


def _of_key(*limits: str, key_id: str = "key", resource: str = "orders") -> Series:
    return Series.of_key(key_id, resource, "acme", "free", limits)


def _call(series: Series, cost: int, *buckets: Bucket, request: str = "") -> Charge:
    return Charge(buckets, (cost,) * len(buckets), request, (Counted(series, cost),))


def test_calls_are_counted_once_with_their_limits(store: ClockedStore, usage: UsageReader) -> None:
    """Allowed calls count their cost; denied ones count once, and for each limit that had no room."""
    small, large, series = _new_bucket(2, "small"), _new_bucket(9, "large"), _of_key("small", "large")
    store.charge([_call(series, 1, small, large) for _ in range(5)], NOW_US)
    assert usage.open() == {series.field: Counts(2, 2, 3, 0, 0, ((3, 0), (0, 0)))}


def test_shadow_limit_denies_nothing_but_is_counted(store: ClockedStore, usage: UsageReader) -> None:
    """A call that only a shadow limit had no room for is allowed, and counted for what it would have been."""
    series = _of_key("a", "b")
    buckets = _new_bucket(1, "a", Mode.SHADOW), _new_bucket(2, "b", Mode.SHADOW)
    store.charge([_call(series, 1, *buckets) for _ in range(4)], NOW_US)
    assert usage.open() == {series.field: Counts(4, 4, 0, 3, 0, ((0, 3), (0, 2)))}


def test_repeats_peeks_and_refunds_are_no_calls(store: ClockedStore, usage: UsageReader) -> None:
    """Only the first of a request's calls counts; a refund lowers the cost; a peek leaves no trace."""
    bucket, series = _new_bucket(100), _of_key("burst")
    store.charge([_call(series, 5, bucket, request="one") for _ in range(3)], NOW_US)
    store.charge([_call(series, 5, bucket, request="one"), Charge((bucket,), (0,))], NOW_US)
    store.charge([Charge((bucket,), (-2,), "", (Counted(series, -2, 0),))], NOW_US)
    assert usage.open() == {series.field: Counts(1, 3, limits=((0, 0),))}


def test_reservations_count_what_they_cost(store: ClockedStore, usage: UsageReader) -> None:
    """The estimate first, then the actual cost in its place, once; what an overdraft cannot take is clamped.

    And how many calls reserved, and of how many the actual cost is known.
    """
    bucket = Bucket(f"usage.{next(_numbers)}", 0, Limit("budget", Quota(10, Window.DAY), overdraft=2))
    series = _of_key("budget")

    def settle(name: bytes, change: int) -> Charge:
        counted = (Counted(series, change, 0, (0,)),)
        return Charge((bucket,), (change,), "", counted, reservation=Settle(name, (6,)))

    made = _call(series, 6, bucket)
    store.charge([made._replace(reservation=Reserve(b"first", 30 * MICRO))], NOW_US)
    assert usage.open() == {series.field: Counts(1, 6, limits=((0, 0),), reserved=1)}
    store.charge([settle(b"first", -4), settle(b"first", -4)], NOW_US)
    assert usage.open() == {series.field: Counts(1, 2, limits=((0, 0),), reserved=1, settled=1)}
    store.charge([made._replace(reservation=Reserve(name, 30 * MICRO)) for name in (b"second", b"third")], NOW_US)
    assert usage.open() == {series.field: Counts(2, 8, 1, limits=((1, 0),), reserved=2, settled=1)}
    store.charge([settle(b"second", 9), settle(b"none", 9)], NOW_US)
    assert usage.open() == {series.field: Counts(2, 17, 1, limits=((1, 0),), clamped=5, reserved=2, settled=2)}
    assert store.charge([Charge((bucket,), (0,))], NOW_US)[0].limit_results[0].remaining == -2 * MICRO


def test_what_holders_of_grants_report(store: ClockedStore, usage: UsageReader) -> None:
    """Is counted once for each grant, also for one that the store does not know, beside the calls of the same run."""
    bucket, series, other = _new_bucket(100), _of_key("burst"), _of_key("burst", resource="other")

    def returned(name: bytes, *reported: tuple[Series, tuple[int, ...]]) -> Charge:
        counted = tuple(Counted(each, 0, REPORTED, counts) for each, counts in reported)
        return Charge((bucket,), (0,), counted=counted, reservation=Return(name, 0))

    first = returned(b"1", (series, (7, 14, 2, 0, 0, 2, 0)), (other, (0, 0, 3, 0, 0)))
    store.charge([first, _call(series, 5, bucket), returned(b"2", (series, (1, 1, 0, 0, 0))), first], NOW_US)
    store.charge([first], NOW_US)
    assert usage.open() == {
        series.field: Counts(9, 20, 2, limits=((2, 0),)),
        other.field: Counts(0, 0, 3, limits=((0, 0),)),
    }


def test_minute_is_frozen_when_the_next_is_counted(store: ClockedStore, usage: UsageReader) -> None:
    """The first count of a later minute freezes the open segment under its number and begins the next."""
    bucket, series = _new_bucket(100), _of_key("burst")
    for minutes in (0, 0, 1, 3):
        store.charge([_call(series, 1, bucket)], NOW_US + minutes * MINUTE_US)
    assert [(each.meta.seq, each.meta.minute, each.counts) for each in usage.frozen()] == [
        (1, MINUTE, {series.field: Counts(2, 2, limits=((0, 0),))}),
        (2, MINUTE + 1, {series.field: Counts(1, 1, limits=((0, 0),))}),
    ]
    assert usage.open() == {series.field: Counts(1, 1, limits=((0, 0),))}
    assert usage.pending_bytes() == sum(each.meta.size for each in usage.frozen())


def test_ping_counts_nothing(store: ClockedStore, usage: UsageReader) -> None:
    """A run without charges, and one of peeks, leave no keys of usage."""
    store.charge([Charge((_new_bucket(1),), (0,))], NOW_US)
    store.charge([], NOW_US)
    assert not store.client.keys("*:u:*")
    assert usage.open() == {}


def test_a_bucket_that_refills_is_counted_alike(store: ClockedStore, usage: UsageReader) -> None:
    """Counting does not depend on the kind of limit."""
    bucket = Bucket(f"usage.{next(_numbers)}", 0, Limit("burst", TokenBucket(1, 1, MICRO)))
    series = _of_key("burst")
    store.charge([_call(series, 1, bucket), _call(series, 1, bucket)], NOW_US)
    assert usage.open() == {series.field: Counts(1, 1, 1, limits=((1, 0),))}


def test_series_with_several_buckets_counts_a_denial_once(store: ClockedStore, usage: UsageReader) -> None:
    """Descriptors of one rule, each with its own bucket, are one call, and denied once by their limit."""
    first, second, rule = _new_bucket(1), _new_bucket(1), Series.of_rule("edge", "path", ["burst"])
    other = Series.of_rule("edge", "user", [])
    charge = Charge((first, second), (1, 1), "", (Counted(rule, 2, 1, (0, 1)), Counted(other, 1, 1, ())))
    store.charge([charge, charge], NOW_US)
    assert usage.open() == {rule.field: Counts(1, 2, 1, limits=((1, 0),)), other.field: Counts(1, 1, 1)}


def test_a_hundred_resources_have_names(store: ClockedStore, usage: UsageReader) -> None:
    """The first 100 resources of a key count by name all day, later ones as `other`, and each key has its own 100."""
    bucket = _new_bucket(1_000_000)
    calls = [_call(_of_key("burst", resource=f"r{number}"), 1, bucket) for number in range(103)]
    for start in range(0, 103, 50):
        store.charge(calls[start : start + 50], NOW_US)
    store.charge([calls[102], calls[0], _call(_of_key("burst", key_id="next", resource="r102"), 1, bucket)], NOW_US)
    names = {(parse_field(field).series[:2]): counts.allowed for field, counts in usage.open().items()}
    assert len(names) == 102
    assert names["key", "other"] == 4
    assert names["key", "r0"] == 2
    assert names["next", "r102"] == 1
    segment = usage.segment("o")
    assert segment is not None
    assert segment.meta.overflow == 4
    store.charge([calls[102], calls[99]], NOW_US + MINUTE_US)
    assert {parse_field(field).series[1] for field in usage.open()} == {"other", "r99"}


def test_resources_have_names_again_on_the_next_day(store: ClockedStore, usage: UsageReader) -> None:
    """The count of a key's resources begins anew at midnight UTC, but not when the clock steps back over it."""
    bucket, midnight = _new_bucket(1_000_000), NOW_US - NOW_US % (1440 * MINUTE_US) + 1440 * MINUTE_US
    calls = [_call(_of_key("burst", resource=f"r{number}"), 1, bucket) for number in range(101)]
    store.charge(calls, midnight - MINUTE_US)
    assert usage.segment("o").meta.overflow == 1
    store.charge([calls[100]], midnight)
    assert {parse_field(field).series[1] for field in usage.open()} == {"r100"}
    store.charge(calls, midnight - 1)
    assert usage.segment("o").meta.overflow == 1


def test_a_count_that_fails_fails_no_charge(store: ClockedStore, usage: UsageReader) -> None:
    """When counts cannot be written, calls are decided all the same, and what is lost can be seen."""
    bucket, series = _new_bucket(2), _of_key("burst")
    store.client.set("{u}:u:o", "not a hash")
    results = store.charge([_call(series, 1, bucket) for _ in range(3)], NOW_US)
    assert [result.charged for result in results] == [True, True, False]
    assert usage.note("lost") == 3


@pytest.fixture
def small(emptied_valkey_url: str) -> Iterator[ClockedStore]:
    """A store with room for about 100 series."""
    with ClockedStore(emptied_valkey_url, "clock:usage", usage_bytes=20_000) as clocked:
        clocked.client.flushdb()
        yield clocked


def test_segments_get_longer_as_the_store_fills(small: ClockedStore) -> None:
    """Nobody takes the segments: they span ten minutes, an hour, and at last never end, and no call is lost."""
    usage, bucket, start = UsageReader(small.client), _new_bucket(1_000_000), NOW_US - NOW_US % (1440 * MINUTE_US)
    for minute in range(500):
        small.charge(
            [_call(_of_key("burst", resource=f"r{number}"), 1, bucket) for number in range(3)],
            start + minute * MINUTE_US,
        )
    spans = [later.meta.minute - each.meta.minute for each, later in pairwise(usage.frozen())]
    assert spans == sorted(spans)
    assert set(spans) == {1, 10, 60}
    assert [segment.meta.coarse for segment in usage.frozen()[:-1]] == [span > 1 for span in spans]
    segments = [*usage.frozen(), usage.segment("o")]
    assert sum(counts.allowed for segment in segments for counts in segment.counts.values()) == 3 * 500
    assert sum(segment.meta.size for segment in segments) <= 20_000
    assert usage.note("lost") == usage.note("squeezed") == 0


def test_series_without_room_count_as_other(small: ClockedStore) -> None:
    """When the open segment alone fills the space, new resources count as `other`, and at last only as lost calls."""
    usage, bucket = UsageReader(small.client), _new_bucket(1_000_000)
    for number in range(600):
        series = _of_key("burst", key_id=f"key-{number // 3}", resource=f"r{number}")
        assert small.charge([_call(series, 1, bucket)], NOW_US)[0].charged
    segment = usage.segment("o")
    others = [field for field in segment.counts if parse_field(field).series[1] == "other"]
    assert others
    counted = sum(counts.allowed for counts in segment.counts.values())
    assert counted + usage.note("lost") == 600
    assert usage.note("lost") > 0
    assert usage.note("squeezed") > len(others)
    assert segment.meta.size < 1.3 * 20_000


def test_a_full_store_recovers_when_segments_are_taken(small: ClockedStore) -> None:
    """A segment that fills the space is frozen when nothing else waits, so that it can be taken."""
    usage, bucket = UsageReader(small.client), _new_bucket(1_000_000)
    for number in range(200):
        small.charge([_call(_of_key("burst", resource=f"r{number}", key_id=f"{number}"), 1, bucket)], NOW_US)
    small.charge([_call(_of_key("burst"), 1, bucket)], NOW_US + MINUTE_US)
    assert len(usage.frozen()) == 1
