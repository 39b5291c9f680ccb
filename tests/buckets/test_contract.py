"""The contract of every bucket store in Redis: on one server, on a cluster, and behind Sentinels."""

import asyncio
from collections import Counter
from dataclasses import replace
from uuid import uuid4

import pytest
import pytest_asyncio
import redis

from buckets.conftest import MakeBucket, OpenStore
from ratelimit_service.buckets.redis.script import pack_array, pack_number
from ratelimit_service.decision.charge import (
    GONE,
    MAX_BUCKETS,
    NEVER,
    UNCHANGED,
    USED_UP,
    Bucket,
    Charge,
    ChargeResult,
    Counted,
    Extend,
    Grant,
    Granted,
    Reserve,
    Return,
    Returned,
    Settle,
)
from ratelimit_service.decision.limit import MAX_TOKENS, MICRO, Concurrency, Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.ports import BucketStore
from ratelimit_service.decision.usage import Series

# They refill too slowly to matter while a test runs.
TEN = Limit("ten", TokenBucket(10, 1, 86_400 * MICRO))
THREE = Limit("three", TokenBucket(3, 1, 86_400 * MICRO))
QUOTA = Limit("quota", Quota(5, Window.YEAR))
SHADOW = Limit("shadow", TokenBucket(2, 1, 86_400 * MICRO), mode=Mode.SHADOW)
DRAINS_US = 86_400 * MICRO


@pytest.fixture(params=["valkey_url", "redis_cluster", "redis_sentinel"])
def url(request: pytest.FixtureRequest) -> str:
    """Each kind of server in turn."""
    server = request.getfixturevalue(request.param)
    return server if isinstance(server, str) else str(server.url)


@pytest_asyncio.fixture
async def store(url: str, open_store: OpenStore) -> BucketStore:
    """A store on it."""
    return open_store(url)


async def take(store: BucketStore, *buckets: Bucket, cost: int = 1, request: str = "") -> ChargeResult:
    """Make one charge of COST in each of BUCKETS."""
    (result,) = await store.charge((Charge(buckets, (cost,) * len(buckets), request),))
    return result


async def used(store: BucketStore, bucket: Bucket) -> int:
    """How many tokens were taken from a bucket that drains too slowly to matter, in whole tokens."""
    peek = (await take(store, bucket, cost=0)).limit_results[0]
    return bucket.limit.capacity - peek.remaining // MICRO


async def test_no_more_than_the_capacity(store: BucketStore, bucket: MakeBucket) -> None:
    """Of more concurrent calls than a bucket holds, exactly as many are charged as it holds."""
    ten = bucket(TEN)
    results = await asyncio.gather(*[take(store, ten) for _ in range(50)])
    assert Counter(result.charged for result in results) == {True: 10, False: 40}


async def test_two_servers_share_a_bucket(url: str, open_store: OpenStore, bucket: MakeBucket) -> None:
    """Two stores on the same server together charge no more than the capacity."""
    ten = bucket(TEN)
    stores = [open_store(url), open_store(url)]
    results = await asyncio.gather(*[take(store, ten) for store in stores for _ in range(25)])
    assert sum(result.charged for result in results) == 10


async def test_all_or_nothing(store: BucketStore, bucket: MakeBucket) -> None:
    """A charge that does not fit one bucket charges none, in any order of the buckets."""
    ten, three = bucket(TEN), bucket(THREE)
    assert (await take(store, ten, three, cost=3)).charged
    for buckets in ((ten, three), (three, ten)):
        assert not (await take(store, *buckets)).charged
    # Rounded to whole tokens, since a little drains between the calls.
    assert await used(store, ten) == 3


async def test_a_denial_has_the_wait(store: BucketStore, bucket: MakeBucket) -> None:
    """The wait of a denied charge is the time until the missing tokens are refilled."""
    three = bucket(THREE)
    await take(store, three, cost=3)
    limit_result = (await take(store, three, cost=2)).limit_results[0]
    assert 2 * DRAINS_US - 60 * MICRO < limit_result.wait_us <= 2 * DRAINS_US
    assert 3 * DRAINS_US - 60 * MICRO < limit_result.reset_us <= 3 * DRAINS_US


async def test_more_than_the_capacity_never_fits(store: BucketStore, bucket: MakeBucket) -> None:
    """A cost above the capacity is denied with no wait that would help, and charges nothing."""
    for limit in (THREE, QUOTA):
        fresh = bucket(limit)
        result = await take(store, fresh, cost=limit.capacity + 1)
        assert not result.charged
        assert result.limit_results[0].wait_us == NEVER
        assert result.limit_results[0].remaining == limit.capacity * MICRO


async def test_a_quota_ends_with_its_window(store: BucketStore, bucket: MakeBucket) -> None:
    """The wait of a quota that is used up is the rest of the year."""
    quota = bucket(QUOTA)
    assert (await take(store, quota, cost=5)).charged
    denied = await take(store, quota)
    assert not denied.charged
    assert 0 < denied.limit_results[0].wait_us == denied.limit_results[0].reset_us <= 366 * 86_400 * MICRO


async def test_a_shadow_never_denies(store: BucketStore, bucket: MakeBucket) -> None:
    """A shadow bucket is charged while it has room; then it neither denies nor is charged."""
    ten, shadow = bucket(TEN), bucket(SHADOW)
    results = [await take(store, ten, shadow) for _ in range(4)]
    assert all(result.charged for result in results)
    assert [result.limit_results[1].wait_us > 0 for result in results] == [False, False, True, True]
    assert await used(store, ten) == 4
    assert await used(store, shadow) == 2


async def test_cost_zero_peeks(store: BucketStore, bucket: MakeBucket) -> None:
    """A charge of 0 fits even where nothing is left, and takes nothing."""
    three = bucket(THREE)
    await take(store, three, cost=3)
    assert (await take(store, three, cost=0)).charged
    assert await used(store, three) == 3


async def test_a_negative_cost_refunds(store: BucketStore, bucket: MakeBucket) -> None:
    """Refunded tokens can be taken again, but no more than the bucket holds."""
    three = bucket(THREE)
    await take(store, three, cost=3)
    assert (await take(store, three, cost=-2)).charged
    assert (await take(store, three, cost=2)).charged
    await take(store, three, cost=-1_000_000)
    assert not (await take(store, three, cost=4)).charged
    assert (await take(store, three, cost=3)).charged


async def test_a_changed_limit_keeps_what_was_consumed(store: BucketStore, bucket: MakeBucket) -> None:
    """Another size or kind of limit on the same bucket gives no free burst."""
    ten = bucket(TEN)
    await take(store, ten, cost=9)
    for limit in (THREE, QUOTA):
        smaller = Bucket(ten.name, ten.partition, limit)
        assert not (await take(store, smaller)).charged
    assert (await take(store, ten)).charged
    assert not (await take(store, ten)).charged


async def test_a_repeated_request_is_charged_once(store: BucketStore, bucket: MakeBucket) -> None:
    """The same request gets the same result, one after another and within one batch, and is charged once."""
    ten, request = bucket(TEN), uuid4().hex
    charge = Charge((ten,), (4,), request)
    first = await store.charge((charge, charge))
    second = await store.charge((charge,))
    assert first[0] == first[1] == second[0]
    assert await used(store, ten) == 4


async def test_a_repeat_of_a_denied_request_decides_anew(store: BucketStore, bucket: MakeBucket) -> None:
    """A request that was denied is charged when it is repeated and has room by then, in one batch and in the next."""
    three, request = bucket(THREE), uuid4().hex
    await take(store, three, cost=3)
    again = Charge((three,), (2,), request)
    denied, refund, charged = await store.charge((again, Charge((three,), (-3,)), again))
    assert (denied.charged, refund.charged, charged.charged) == (False, True, True)
    assert await take(store, three, cost=2, request=request) == charged
    assert await used(store, three) == 2


async def test_a_denial_that_an_earlier_version_stored_is_decided_anew(
    valkey_url: str, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """Servers of an earlier version keep denials of requests, too: they are not given, and not kept."""
    three, request = bucket(THREE), uuid4().hex
    store = open_store(valkey_url)
    key = f"{{p0}}:r:{request}"
    with redis.Redis.from_url(valkey_url) as client:
        client.set(key, pack_array([pack_number(number) for number in (0, 0, DRAINS_US, 3 * DRAINS_US)]), px=30_000)
        assert (await take(store, three, cost=2, request=request)).charged
        assert await used(store, three) == 2
        other = uuid4().hex
        assert not (await take(store, three, cost=2, request=other)).charged
        assert not client.exists(f"{{p0}}:r:{other}")


async def test_a_request_at_two_servers_at_once(url: str, open_store: OpenStore, bucket: MakeBucket) -> None:
    """One request through two stores at the same time is charged once, with the same result from both."""
    stores = [open_store(url), open_store(url)]
    for _ in range(20):
        ten, request = bucket(TEN), uuid4().hex
        first, second = await asyncio.gather(*[take(store, ten, request=request) for store in stores])
        assert first == second
        assert await used(stores[0], ten) == 1


async def test_batches_keep_their_order(store: BucketStore, bucket: MakeBucket) -> None:
    """The results of one call over many partitions are in the order of its charges."""
    buckets = [bucket(Limit("l", TokenBucket(n + 1, 1, 86_400 * MICRO)), partition=n % 16) for n in range(64)]
    results = await store.charge([Charge((each,), (1,)) for each in buckets])
    assert [result.limit_results[0].remaining for result in results] == [n * MICRO for n in range(64)]


@pytest.mark.parametrize("cost", [127, 128, 255, 4_095, 4_096, 4_097, 1_000_000])
async def test_a_cost_of_any_size(store: BucketStore, bucket: MakeBucket, cost: int) -> None:
    """Costs on both sides of what the encoding of numbers distinguishes are charged as they are, and refunded."""
    large, beside = (bucket(Limit("large", Quota(2_000_000, Window.YEAR))) for _ in range(2))
    await take(store, large, cost=cost)
    await take(store, large, beside, cost=cost)
    assert (await used(store, large), await used(store, beside)) == (2 * cost, cost)
    await take(store, large, cost=-cost)
    assert await used(store, large) == cost


async def test_the_largest_costs_are_exact(store: BucketStore, bucket: MakeBucket) -> None:
    """The largest limit can be taken whole, in one charge or several, to the token, and refunded."""
    large = bucket(Limit("large", Quota(MAX_TOKENS, Window.YEAR)))
    assert not (await take(store, large, cost=MAX_TOKENS + 1)).charged
    assert (await take(store, large, cost=MAX_TOKENS - 1)).charged
    assert not (await take(store, large, cost=2)).charged
    assert not (await take(store, large, cost=MAX_TOKENS)).charged
    assert (await take(store, large)).charged
    assert not (await take(store, large)).charged
    assert await used(store, large) == MAX_TOKENS
    await take(store, large, cost=-MAX_TOKENS)
    assert await used(store, large) == 0
    assert (await take(store, large, cost=MAX_TOKENS)).charged


async def test_a_charge_of_many_buckets(store: BucketStore, bucket: MakeBucket) -> None:
    """A charge of as many buckets as a request of descriptors may have is made whole, in one script run."""
    buckets = tuple(bucket(Limit("ten", Quota(10, Window.YEAR))) for _ in range(MAX_BUCKETS))
    series = [Series.of_rule("edge", str(number), ["ten"] * 4) for number in range(128)]
    counted = tuple(Counted(each, 1, 1, tuple(range(n * 4, n * 4 + 4))) for n, each in enumerate(series))
    for remaining in (9, 8):
        (result,) = await store.charge([Charge(buckets, (1,) * MAX_BUCKETS, "", counted)])
        assert result.charged
        assert [each.remaining for each in result.limit_results] == [remaining * MICRO] * MAX_BUCKETS
    (result,) = await store.charge([Charge(buckets, (9,) * MAX_BUCKETS, "", counted)])
    assert not result.charged
    assert [each.remaining for each in result.limit_results] == [8 * MICRO] * MAX_BUCKETS


async def test_a_charge_of_no_bucket_is_made(store: BucketStore) -> None:
    """A charge without buckets succeeds: there is nothing to deny it."""
    assert await store.charge((Charge((), ()),)) == [ChargeResult(charged=True, limit_results=())]


async def test_a_call_larger_than_one_script(store: BucketStore, bucket: MakeBucket) -> None:
    """A call with more buckets than fit into one script run gets all its results, in order."""
    buckets = tuple(bucket(TEN) for _ in range(40))
    results = await store.charge([Charge(buckets, (1,) * 40)] * 256)
    assert [result.charged for result in results] == [True] * 10 + [False] * 246


async def test_calls_larger_than_one_script_together(store: BucketStore, bucket: MakeBucket) -> None:
    """Concurrent calls that together have more buckets than Lua can take at once are made all the same."""
    calls = [[bucket(TEN) for _ in range(40)] for _ in range(250)]
    results = await asyncio.gather(*(take(store, *buckets) for buckets in calls))
    assert all(result.charged for result in results)


async def test_a_reservation_is_settled_once(store: BucketStore, bucket: MakeBucket) -> None:
    """What was too much comes back, a repeat changes nothing, and none is there of another name."""
    ten, at_once = bucket(TEN), bucket(Limit("two", Concurrency(2, 30 * MICRO)))
    name, buckets = uuid4().bytes, (ten, at_once)

    async def made(costs: tuple[int, int], reservation: Reserve | Settle | Extend) -> ChargeResult:
        (result,) = await store.charge((Charge(buckets, costs, reservation=reservation),))
        return result

    reserved = await made((6, 1), Reserve(name, 30 * MICRO))
    assert (reserved.charged, reserved.limit_results[1].remaining) == (True, MICRO)
    assert not (await made((6, 1), Reserve(uuid4().bytes, 30 * MICRO))).charged
    extended = await made((0, 0), Extend(name, (6, 1), 60 * MICRO))
    assert 59 * MICRO < extended.held_us <= 60 * MICRO
    for _ in range(2):
        settled = await made((-4, -1), Settle(name, (6, 1)))
        assert (settled.charged, settled.held_us, settled.limit_results[1].remaining) == (True, 0, 2 * MICRO)
        assert await used(store, ten) == 2
    assert (await made((-4, -1), Settle(uuid4().bytes, (6, 1)))).held_us == GONE
    assert (await made((0, 0), Extend(name, (6, 1), 60 * MICRO))).held_us == GONE
    assert await used(store, ten) == 2


async def test_a_reservation_is_repeated_after_its_policy_has_changed(store: BucketStore, bucket: MakeBucket) -> None:
    """It is charged once, and a settlement by the buckets of the repeat changes only those that it was charged to."""
    kept, removed, added = bucket(QUOTA), bucket(TEN), bucket(QUOTA)
    removed_slots, added_slots = (bucket(Limit("two", Concurrency(2, 30 * MICRO))) for _ in range(2))
    smaller = Bucket(kept.name, kept.partition, replace(QUOTA, algorithm=Quota(4, Window.YEAR)))
    name, request, hold_us = uuid4().bytes, uuid4().hex, 30 * MICRO

    async def charge(
        buckets: tuple[Bucket, ...], costs: tuple[int, ...], own: Reserve | Settle | Extend, request: str = ""
    ) -> ChargeResult:
        (result,) = await store.charge((Charge(buckets, costs, request, reservation=own),))
        return result

    before, after = (removed, kept, removed_slots), (added_slots, added, smaller)
    assert (await charge(before, (3, 3, 1), Reserve(name, hold_us), request)).charged
    assert (await charge((added, added_slots), (2, 1), Reserve(uuid4().bytes, hold_us))).charged
    repeated = await charge(after, (1, 3, 3), Reserve(name, hold_us), request)
    assert (repeated.charged, repeated.hold) == (True, UNCHANGED)
    assert [result.remaining for result in repeated.limit_results] == [MICRO, 3 * MICRO, MICRO]
    assert 0 < (await charge(after, (0, 0, 0), Extend(name, (1, 3, 3), hold_us))).held_us <= hold_us
    for _ in range(2):
        settled = await charge(after, (-1, -3, -3), Settle(name, (1, 3, 3)))
        assert [result.remaining for result in settled.limit_results] == [MICRO, 3 * MICRO, 4 * MICRO]
    assert [await used(store, each) for each in (removed, kept, added)] == [3, 0, 2]


async def test_a_grant_is_returned_once(store: BucketStore, bucket: MakeBucket) -> None:
    """It takes as many units as fit, its repeat takes none, and what comes back is bounded by it."""
    first, second = bucket(TEN), bucket(Limit("calls", Quota(5, Window.YEAR)))
    name, ttl_us = uuid4().bytes, 1 * MICRO

    async def made(costs: tuple[int, int], own: Grant | Return) -> ChargeResult:
        (result,) = await store.charge((Charge((first, second), costs, reservation=own),))
        return result

    grant = Grant(name, ttl_us, 100, 1, 7)
    granted = await made((2, 1), grant)
    assert (granted.charged, granted.hold) == (True, Granted(5, 5, ttl_us))
    again = (await made((2, 1), grant)).hold
    assert isinstance(again, Granted)
    assert (again.taken, again.units, 0 < again.left_us <= ttl_us) == (0, 5, True)
    assert (await made((2, 1), grant._replace(call=8))).hold == Granted(0, 0, USED_UP)
    nothing = await made((2, 1), grant._replace(name=uuid4().bytes))
    assert (nothing.charged, nothing.hold) == (False, Granted(0, 0, 0))
    returned = (await made((0, 0), Return(name, 3))).hold
    assert isinstance(returned, Returned)
    assert (returned[:3], 0 < returned.left_us <= ttl_us) == ((3, (2, 1), False), True)
    assert (await made((0, 0), Return(name, 3))).hold == Returned(0, (0, 0), again=True)
    assert [await used(store, each) for each in (first, second)] == [4, 2]
    assert (await made((2, 1), grant)).hold == Granted(0, 0, USED_UP)
    early = uuid4().bytes
    assert (await made((0, 0), Return(early, 9))).held_us == GONE
    assert (await made((2, 1), grant._replace(name=early))).hold == Granted(0, 0, USED_UP)
    assert [await used(store, each) for each in (first, second)] == [4, 2]
