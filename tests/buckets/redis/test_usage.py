"""What the charge script counts, on a real store."""

from collections.abc import Iterator
from itertools import count

import pytest

from buckets.clocked import ClockedStore
from buckets.redis.usage import MINUTE_US, UsageReader
from ratelimit_service.decision.charge import Bucket, Charge, Counted
from ratelimit_service.decision.limit import MICRO, Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.usage import Counts, Series

NOW_US = 1_800_000_000_000_000
MINUTE = NOW_US // MINUTE_US
_numbers = count()


@pytest.fixture
def store(valkey_url: str) -> Iterator[ClockedStore]:
    """A store with nothing in it, and a clock."""
    with ClockedStore(valkey_url, "clock:usage") as clocked:
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
