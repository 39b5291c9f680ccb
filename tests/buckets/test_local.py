"""The bucket store in the memory of one process."""

import calendar

import pytest

from ratelimit_service.buckets.local import LocalBucketStore
from ratelimit_service.decision.charge import GONE, NEVER, Bucket, Charge, Reserve, Settle
from ratelimit_service.decision.limit import MICRO, Concurrency, Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.ports import StoreUnavailable

NOW_US = 1_800_000_000_000_000


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now_us = NOW_US

    def __call__(self) -> int:
        """Microseconds since 1970 UTC."""
        return self.now_us


@pytest.fixture
def clock() -> Clock:
    """The store's clock."""
    return Clock()


async def test_limits_are_divided_by_the_servers(clock: Clock) -> None:
    """With four servers one of them allows a quarter of the burst, of the rate, and of the quota."""
    store = LocalBucketStore(lambda: 4, clock)
    bucket = Bucket("b", 0, Limit("b", TokenBucket(20, 10, MICRO)))
    quota = Bucket("q", 0, Limit("q", Quota(40, Window.DAY)))
    results = await store.charge([Charge((bucket,), (1,))] * 7)
    assert [result.charged for result in results] == [True] * 5 + [False] * 2
    assert results[-1].limit_results[0].wait_us == 400_000
    results = await store.charge([Charge((quota,), (1,))] * 12)
    assert sum(result.charged for result in results) == 10


async def test_at_least_one_token_is_left(clock: Clock) -> None:
    """However many servers there are, each allows one call, and no cost above that ever fits."""
    store = LocalBucketStore(lambda: 100, clock)
    bucket = Bucket("b", 0, Limit("b", TokenBucket(20, 10, MICRO)))
    first, second, large = await store.charge([Charge((bucket,), (cost,)) for cost in (1, 1, 2)])
    assert (first.charged, second.charged, large.charged) == (True, False, False)
    assert (second.limit_results[0].wait_us, large.limit_results[0].wait_us) == (10 * MICRO, NEVER)


async def test_a_changed_number_of_servers_applies_at_once(clock: Clock) -> None:
    """When servers stop, their share of a limit goes to the rest."""
    servers = 2
    store = LocalBucketStore(lambda: servers, clock)
    bucket = Bucket("b", 0, Limit("b", TokenBucket(20, 10, MICRO)))
    assert sum(o.charged for o in await store.charge([Charge((bucket,), (1,))] * 20)) == 10
    servers = 1
    assert sum(o.charged for o in await store.charge([Charge((bucket,), (1,))] * 20)) == 10


async def test_a_limit_that_becomes_one_of_calls_at_once(clock: Clock) -> None:
    """Under the same name: its slots have nothing to do with what was spent of it, which is still handed over."""
    store = LocalBucketStore(lambda: 2, clock)
    away = StoreUnavailable("Redis is down")
    tokens = Bucket("s", 0, Limit("s", TokenBucket(20, 10, MICRO)))
    assert store.decide(Charge((tokens,), (5,)), away).charged
    slots = Bucket("s", 0, Limit("s", Concurrency(4, 30 * MICRO)))
    clock.now_us += MICRO // 10
    assert store.decide(Charge((slots,), (1,), reservation=Reserve(b"1", 30 * MICRO)), away).charged
    assert [each.tokens for each in store.unreported(10)] == [5]


async def test_slots_are_divided_and_come_back_as_holds_end(clock: Clock) -> None:
    """Nothing is settled without the store. What was taken is never handed over: there is nothing to charge."""
    store = LocalBucketStore(lambda: 2, clock)
    slots = Bucket("s", 0, Limit("s", Concurrency(4, 30 * MICRO)))
    away = StoreUnavailable("Redis is down")

    def taken(name: bytes) -> bool:
        return store.decide(Charge((slots,), (1,), reservation=Reserve(name, 30 * MICRO)), away).charged

    assert [taken(name) for name in (b"1", b"2", b"3")] == [True, True, False]
    store.spend(Charge((slots,), (1,), reservation=Reserve(b"4", 30 * MICRO)), away)
    assert store.unreported(10) == []
    clock.now_us += 30 * MICRO
    assert [taken(name) for name in (b"5", b"6", b"7")] == [True, True, False]
    (gone,) = await store.charge([Charge((slots,), (-1,), reservation=Settle(b"5", (1,)))])
    assert gone.held_us == GONE


async def test_a_share_may_owe_all_that_the_limit_may(clock: Clock) -> None:
    """What is charged afterwards was spent, whoever records it: one of four servers takes it, and hands it over."""
    store = LocalBucketStore(lambda: 4, clock)
    bucket = Bucket("b", 0, Limit("b", TokenBucket(100, 1, MICRO), overdraft=1_000))
    away = StoreUnavailable("Redis is down")
    result = store.decide(Charge((bucket,), (900,), afterwards=True), away)
    assert (result.charged, result.clamped) == (False, 0)
    store.spend(Charge((bucket,), (150,), afterwards=True), away)
    assert [each.tokens for each in store.unreported(1)] == [1_050]


async def test_what_the_store_may_have_charged_is_not_handed_over(clock: Clock) -> None:
    """Without its reply a charge made afterwards counts as made, although it left nothing, and whatever the limits."""
    store = LocalBucketStore(lambda: 1, clock)
    owing = Bucket("b", 0, Limit("b", TokenBucket(100, 1, MICRO), overdraft=50))
    shadow = Bucket("s", 0, Limit("s", Quota(10, Window.DAY), mode=Mode.SHADOW))
    sent = StoreUnavailable("no reply", sent=True)
    result = store.decide(Charge((owing, shadow), (120, 120), afterwards=True), sent)
    assert (result.charged, result.clamped) == (False, 110)
    assert store.unreported(10) == []


async def test_a_request_is_spent_once(clock: Clock) -> None:
    """A repeat with the same name notes nothing."""
    store = LocalBucketStore(lambda: 1, clock)
    bucket = Bucket("b", 0, Limit("b", Quota(100, Window.DAY), overdraft=0))
    for _ in range(3):
        store.spend(Charge((bucket,), (30,), "r", afterwards=True), StoreUnavailable("Redis is down"))
    assert [each.tokens for each in store.unreported(10)] == [30]


async def test_memory_is_bounded(clock: Clock) -> None:
    """Of more buckets than `size`, those charged longest ago are evicted."""
    store = LocalBucketStore(lambda: 1, clock, size=10)
    buckets = [Bucket(str(n), 0, Limit("b", TokenBucket(2, 1, 60 * MICRO))) for n in range(11)]
    await store.charge([Charge((buckets[n],), (1,)) for n in (*range(10), 0, 10)])
    again = await store.charge([Charge((buckets[n],), (0,)) for n in (0, 1, 2, 10)])
    assert [result.limit_results[0].remaining // MICRO for result in again] == [0, 2, 1, 1]


async def test_a_quota_lasts_for_a_leap_year(clock: Clock) -> None:
    """What was taken on the first of January of a leap year still counts on its last day."""
    store = LocalBucketStore(lambda: 1, clock)
    quota = Bucket("q", 0, Limit("q", Quota(1, Window.YEAR)))
    clock.now_us = calendar.timegm((2028, 1, 1, 0, 0, 0)) * MICRO
    assert (await store.charge([Charge((quota,), (1,))]))[0].charged
    clock.now_us = calendar.timegm((2029, 1, 1, 0, 0, 0)) * MICRO - 1
    assert not (await store.charge([Charge((quota,), (1,))]))[0].charged
    clock.now_us += 1
    assert (await store.charge([Charge((quota,), (1,))]))[0].charged


async def test_a_request_keeps_its_result_within_its_window(clock: Clock) -> None:
    """A repeated request is charged once within the window, and is a new one afterwards."""
    store = LocalBucketStore(lambda: 1, clock, request_window=30)
    bucket = Bucket("b", 0, Limit("b", Quota(5, Window.YEAR)))
    charge = Charge((bucket,), (1,), "request")
    first = await store.charge([charge])
    clock.now_us += 30 * MICRO - 1
    assert await store.charge([charge]) == first
    clock.now_us += 1
    (later,) = await store.charge([charge])
    assert later.limit_results[0].remaining == 3 * MICRO
