"""Charges of several partitions on a real Redis Cluster of three nodes: all or nothing, and never above a limit."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import pytest
import pytest_asyncio
import redis
from redis.crc import key_slot

from buckets.clocked import TIMEOUT, clocked_scripts
from buckets.conftest import LoopbackCluster, MakeBucket, OpenStore
from ratelimit_service.buckets.redis.cluster import Cluster
from ratelimit_service.buckets.redis.cluster_store import ClusterBucketStore
from ratelimit_service.buckets.redis.connect import open_unguarded_store
from ratelimit_service.buckets.redis.connection import Address, Login
from ratelimit_service.buckets.redis.script import bucket_key
from ratelimit_service.buckets.redis.spanning import Refunder, SpanningStore, Taken
from ratelimit_service.clock import SystemClock
from ratelimit_service.decision.charge import NEVER, Bucket, Charge, ChargeResult, Counted, LimitResult
from ratelimit_service.decision.limit import MICRO, Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.ports import BucketStore, PartlyUnavailable, StoreUnavailable
from ratelimit_service.decision.usage import Series
from ratelimit_service.decision.usage_tally import UsageTally

DAY_US = 86_400 * MICRO
# They refill too slowly to matter while a test runs.
TEN = Limit("ten", TokenBucket(10, 1, DAY_US))
THREE = Limit("three", TokenBucket(3, 1, DAY_US))
QUOTA = Limit("quota", Quota(10, Window.YEAR))
FAST = Limit("fast", TokenBucket(100, 1_000, MICRO))
SHADOW = Limit("shadow", TokenBucket(1, 1, DAY_US), mode=Mode.SHADOW)
WINDOW = 60.0


class Interfering:
    """The cluster's store, with hooks before and after its calls, by their number."""

    def __init__(self, store: ClusterBucketStore) -> None:
        self._store = store
        self.before: dict[int, Callable[[], Awaitable[object]]] = {}
        self.after: dict[int, Callable[[], Awaitable[object]]] = {}
        self.calls = 0

    async def charge(self, charges: Sequence[Charge], deadline: float | None = None) -> Sequence[ChargeResult]:
        self.calls = number = self.calls + 1
        if number in self.before:
            await self.before[number]()
        results = await self._store.charge(charges, deadline)
        if number in self.after:
            await self.after[number]()
        return results

    async def ping(self) -> None:
        await self._store.ping()

    async def close(self) -> None:
        await self._store.close()


class World:
    """A spanning store, the store under it, and another server's store on the same cluster."""

    def __init__(self, store: SpanningStore, other: SpanningStore) -> None:
        inner = store._store
        assert isinstance(inner, ClusterBucketStore)
        self.under = Interfering(inner)
        self.refund: Refunder = store._refund
        self.usage = UsageTally(SystemClock())
        self.store = SpanningStore(self.under, self.refund, self.usage)
        self.other = other


@pytest_asyncio.fixture
async def world(redis_cluster: LoopbackCluster, open_store: OpenStore) -> AsyncIterator[World]:
    """Two servers on one cluster."""
    store, other = (open_store(redis_cluster.url, request_window=WINDOW) for _ in "12")
    assert isinstance(store, SpanningStore)
    assert isinstance(other, SpanningStore)
    world = World(store, other)
    yield world
    await asyncio.gather(*world.store._tasks, return_exceptions=True)


async def take(store: BucketStore, *wanted: tuple[Bucket, int]) -> ChargeResult:
    """Make one charge."""
    buckets, costs = zip(*wanted, strict=True)
    (result,) = await store.charge((Charge(buckets, costs),))
    return result


async def used(store: BucketStore, *buckets: Bucket) -> list[int]:
    """How many whole tokens were taken from buckets that drain too slowly to matter."""
    peek = await take(store, *((bucket, 0) for bucket in buckets))
    pairs = zip(buckets, peek.limit_results, strict=True)
    return [bucket.limit.capacity - round(result.remaining / MICRO) for bucket, result in pairs]


@pytest.fixture
def three(bucket: MakeBucket) -> tuple[Bucket, Bucket, Bucket]:
    """Three buckets in three partitions, each on another node."""
    return bucket(TEN, partition=0), bucket(THREE, partition=1), bucket(QUOTA, partition=2)


async def test_all_or_nothing(world: World, three: tuple[Bucket, Bucket, Bucket]) -> None:
    """A charge of several slots is made whole; one without room in one of them changes none and needs no refund."""
    made = await take(world.store, *((each, 2) for each in three))
    assert made.charged
    assert [result.remaining // MICRO for result in made.limit_results] == [8, 1, 8]
    denied = await take(world.store, *((each, 2) for each in three))
    assert not denied.charged
    assert [result.wait_us > 0 for result in denied.limit_results] == [False, True, False]
    assert DAY_US - 60 * MICRO < denied.limit_results[1].wait_us <= DAY_US
    assert await used(world.other, *three) == [2, 2, 2]
    assert world.store.refunded == 0
    never = await take(world.store, (three[0], 1), (three[1], 4))
    assert [result.wait_us for result in never.limit_results] == [0, NEVER]


async def test_a_charge_made_afterwards_is_made_in_each_slot(
    world: World, three: tuple[Bucket, Bucket, Bucket], bucket: MakeBucket
) -> None:
    """What one slot has no room for keeps the others from nothing; one owes, another does not take all, as counted."""
    owing = bucket(replace(TEN, overdraft=5), partition=3)
    buckets = (*three, owing)
    series = Series.of_rule("edge", "a", ["ten", "three", "quota", "owing"])
    charge = Charge(buckets, (7, 7, 7, 12), "", (Counted(series, 7, 1, (0, 1, 2, 3)),), afterwards=True)
    (made,) = await world.store.charge([charge])
    assert (made.charged, made.clamped) == (False, 4)
    assert [result.remaining // MICRO for result in made.limit_results] == [3, 0, 3, -2]
    assert [result.wait_us > 0 for result in made.limit_results] == [False, True, False, True]
    assert await used(world.other, *buckets) == [7, 3, 7, 12]
    (row,) = world.usage.take(10)
    assert (row.counts[:5], row.counts[-3:]) == ([1, 7, 0, 0, 0], [4, 0, 0])


async def test_a_peek_that_is_denied_denies_all(
    world: World, three: tuple[Bucket, Bucket, Bucket], bucket: MakeBucket
) -> None:
    """A limit that owes denies by a cost of 0, in another slot, too: nothing is charged, and nothing refunded."""
    owing = bucket(replace(QUOTA, overdraft=5), partition=5)
    await world.store.charge([Charge((owing,), (12,), afterwards=True), Charge((three[1],), (3,))])
    denied = await take(world.store, (three[0], 2), (owing, 0), (three[1], -1))
    assert not denied.charged
    assert [result.wait_us > 0 for result in denied.limit_results] == [False, True, False]
    assert await used(world.other, three[0], three[1]) == [0, 3]
    await world.store.charge([Charge((owing,), (-5,))])
    assert (await take(world.store, (three[0], 2), (owing, 0), (three[1], -1))).charged
    assert await used(world.other, three[0], three[1]) == [2, 2]


async def test_order_of_results(world: World, three: tuple[Bucket, Bucket, Bucket], bucket: MakeBucket) -> None:
    """The results of charges of one partition and of several in one call are in the order of the charges."""
    near = bucket(QUOTA, partition=0)
    charges = (
        Charge((three[0],), (1,)),
        Charge((three[0], three[1], near), (2, 3, 4)),
        Charge((near,), (1,)),
        Charge((three[1], three[2]), (1, 1)),
    )
    results = await world.store.charge(charges)
    assert [len(result.limit_results) for result in results] == [1, 3, 1, 2]
    assert [results[index].charged for index in (0, 2)] == [True, True]
    assert sum(results[index].charged for index in (1, 3)) == 1  # they compete for the second bucket


async def test_no_limit_is_exceeded_under_races(world: World, three: tuple[Bucket, Bucket, Bucket]) -> None:
    """However many concurrent charges two servers make, no limit is exceeded, and what is used is what was allowed."""
    ten, scarce, quota = three
    wanted = [((ten, 1), (scarce, 1)), ((scarce, 1), (quota, 1)), ((ten, 1), (quota, 1))] * 15
    results = await asyncio.gather(
        *(take((world.store, world.other)[index % 2], *costs) for index, costs in enumerate(wanted))
    )
    allowed = [costs for costs, result in zip(wanted, results, strict=True) if result.charged]
    counts = [sum(bucket is each for costs in allowed for bucket, _ in costs) for each in three]
    assert await used(world.store, *three) == counts
    assert all(count <= each.limit.capacity for count, each in zip(counts, three, strict=True))
    assert world.store.refunded + world.other.refunded > 0, "no race occurred, so nothing was tested"
    assert world.store.failed_refunds + world.other.failed_refunds == 0


async def test_a_lost_race_is_refunded(world: World, three: tuple[Bucket, Bucket, Bucket]) -> None:
    """When another charge takes the room between the peek and the charge, the other partitions are refunded."""
    await take(world.other, *((each, 1) for each in three))
    world.under.after[1] = lambda: take(world.other, (three[1], 2))
    denied = await take(world.store, *((each, 2) for each in three))
    assert not denied.charged
    assert denied.limit_results[1].wait_us > 0
    assert [denied.limit_results[index].remaining // MICRO for index in (0, 2)] == [9, 9]
    assert world.store.refunded == 1
    assert await used(world.other, *three) == [1, 3, 1]


async def test_a_limit_below_what_is_used_is_refunded(world: World, three: tuple[Bucket, Bucket, Bucket]) -> None:
    """A limit that decides by a level of its own, as a larger one has used more, is refunded in that level."""
    large = Bucket(three[0].name, three[0].partition, Limit("large", Quota(1_000, Window.YEAR)))
    small = Bucket(three[0].name, three[0].partition, Limit("small", TokenBucket(50, 50, DAY_US)))
    await take(world.other, (large, 1_000))
    await take(world.other, (small, -20))
    world.under.after[1] = lambda: take(world.other, (three[1], 3))
    assert not (await take(world.store, (small, 7), (three[1], 1))).charged
    assert world.store.refunded == 1
    assert await used(world.other, small, three[1]) == [30, 3]
    assert await used(world.other, large) == [987]  # what larger limits have used is not refunded


async def test_shadows_neither_deny_nor_are_refunded(world: World, bucket: MakeBucket) -> None:
    """A shadow bucket without room does not deny the charge, and is not refunded what was not taken from it."""
    shadow, ten, three = bucket(SHADOW, partition=3), bucket(TEN, partition=0), bucket(THREE, partition=1)
    for _ in range(2):
        assert (await take(world.store, (shadow, 1), (ten, 1))).charged
    assert await used(world.other, shadow, ten) == [1, 2]
    world.under.after[world.under.calls + 1] = lambda: take(world.other, (three, 3))
    assert not (await take(world.store, (shadow, 1), (ten, 1), (three, 1))).charged
    assert await used(world.other, shadow, ten, three) == [1, 2, 3]


async def test_peeks_and_negative_costs(world: World, three: tuple[Bucket, Bucket, Bucket]) -> None:
    """Costs of 0 are peeks and negative ones refund, alone and beside positive ones, but not at all on a denial."""
    await take(world.store, *((each, 3) for each in three))
    assert (await take(world.store, (three[0], -2), (three[1], 0))).charged
    assert await used(world.other, *three) == [1, 3, 3]
    assert not (await take(world.store, (three[0], -1), (three[1], 1))).charged
    assert await used(world.other, *three) == [1, 3, 3]
    assert (await take(world.store, (three[1], -1), (three[2], 1), (three[0], 0))).charged
    assert await used(world.other, *three) == [1, 2, 4]


async def test_a_failure_is_refunded(world: World, three: tuple[Bucket, Bucket, Bucket]) -> None:
    """When one slot is unavailable, the call fails and the others are refunded."""

    async def fail() -> None:
        raise StoreUnavailable("one node is down")

    world.under.before[3] = fail  # the first call is the peek, followed by one for each slot
    with pytest.raises(StoreUnavailable, match="one node"):
        await take(world.store, *((each, 1) for each in three))
    assert await used(world.other, *three) == [0, 0, 0]


@pytest.mark.parametrize(
    ("lost", "sent"),
    [(1, False), (2, True), (3, True), (4, True), (5, True)],
    ids=["peek", "first", "second", "third", "fitting"],
)
async def test_a_lost_reply(world: World, three: tuple[Bucket, Bucket, Bucket], lost: int, sent: bool) -> None:
    """Once a part may have been charged, the charge counts as sent, so that it is not handed over; a peek does not."""

    async def lose() -> None:
        raise StoreUnavailable("no reply", sent=True)

    world.under.after[lost] = lose
    charge = Charge((*three, three[0]), (1, 1, 1, -1), counted=(Counted(Series.of_rule("d", "r", ("l",)), 1, 1, (0,)),))
    with pytest.raises(StoreUnavailable, match="no reply") as error:
        await world.store.charge((charge,))
    assert error.value.sent == sent
    assert world.usage.unconfirmed == sent


@pytest.mark.parametrize("made", [None, ChargeResult(charged=True, limit_results=(LimitResult(0, 0, 0),))])
async def test_a_failure_beside_a_spanning_charge(
    world: World, three: tuple[Bucket, Bucket, Bucket], made: ChargeResult | None
) -> None:
    """When charges of one partition fail, all or some, those of several beside them are made and reported."""

    async def fail() -> None:
        if made is None:
            raise StoreUnavailable("the nodes are down")
        raise PartlyUnavailable("one node is down", [made, StoreUnavailable("one node is down")])

    world.under.before[1] = fail
    with pytest.raises(PartlyUnavailable, match="down") as error:
        await world.store.charge((Charge(three[:1], (1,)), Charge(three[1:2], (1,)), Charge(three, (2, 2, 2))))
    charged = [isinstance(result, ChargeResult) for result in error.value.results]
    assert charged == [made is not None, False, True]
    assert await used(world.other, *three) == [2, 2, 2]


async def test_a_cancelled_caller(world: World, three: tuple[Bucket, Bucket, Bucket]) -> None:
    """A caller that is cancelled at any moment leaves a charge that was made whole, or none."""
    for iterations in range(12):
        before = await used(world.other, *three)
        calling = asyncio.ensure_future(take(world.store, *((each, 1) for each in three)))
        for _ in range(iterations):
            await asyncio.sleep(0.0002)
        calling.cancel()
        with suppress(asyncio.CancelledError):
            await calling
        await asyncio.gather(*world.store._tasks, return_exceptions=True)
        after = await used(world.other, *three)
        assert len({now - then for now, then in zip(after, before, strict=True)}) == 1
        await take(world.other, *((each, -1) for each in three))


async def test_no_request_names(world: World, three: tuple[Bucket, Bucket, Bucket]) -> None:
    """A charge of several partitions cannot be recognised when it is repeated, so a request name is rejected."""
    with pytest.raises(ValueError, match="request name"):
        await world.store.charge((Charge(three, (1, 1, 1), "name"),))


async def charge_named(world: World, bucket: Bucket, cost: int, request: str) -> Taken:
    """Charge a bucket under a request's name."""
    (result,) = await world.other.charge((Charge((bucket,), (cost,), request),))
    assert result.charged
    return Taken(bucket, cost, result.limit_results[0])


def node_of(cluster: LoopbackCluster, bucket: Bucket) -> redis.Redis:
    """A client of the node that has the bucket."""
    return cluster.clients[key_slot(b"{p%d}" % bucket.partition) * 3 // 16_384]


@pytest.mark.parametrize("limit", [TEN, QUOTA])
async def test_refunded_once(world: World, bucket: MakeBucket, limit: Limit) -> None:
    """However often the refund is sent, a charge is refunded once, and one that was never made not at all."""
    charged = bucket(limit)
    await take(world.other, (charged, 5))
    taken = await charge_named(world, charged, 3, "refunded-" + charged.name)
    refunded = [await world.refund("refunded-" + charged.name, [taken]) for _ in range(3)]
    assert refunded == [True, False, False]
    assert await used(world.other, charged) == [5]
    assert not await world.refund("never-made", [taken])
    assert await used(world.other, charged) == [5]


@pytest.mark.parametrize("before", [0, 30])
async def test_what_drained_is_not_refunded(world: World, bucket: MakeBucket, before: int) -> None:
    """A bucket that drains fast never has more after the refund than its twin that was not charged at all."""
    fast, twin = bucket(FAST), bucket(FAST)

    async def both(cost: int) -> list[int]:
        results = (await take(world.other, (fast, cost), (twin, cost))).limit_results
        return [result.remaining for result in results]

    for pause in (0.0, 0.005, 0.03):
        await both(-100)
        await both(before)
        taken = await charge_named(world, fast, 50, f"drained-{pause}-{fast.name}")
        await asyncio.sleep(pause)
        await both(20)
        await world.refund(f"drained-{pause}-{fast.name}", [taken])
        of_fast, of_twin = await both(0)
        assert of_fast <= of_twin
        # At most what drains in the pause and in a few milliseconds around it is lost.
        assert of_twin - of_fast <= 50 * MICRO


async def test_a_bucket_with_enough_use_is_refunded_in_full(world: World, bucket: MakeBucket) -> None:
    """A bucket that had more used than drains meanwhile is afterwards as it would be without the charge."""
    slow, twin = bucket(TEN), bucket(TEN)
    await take(world.other, (slow, 5), (twin, 5))
    taken = await charge_named(world, slow, 3, "enough-" + slow.name)
    await asyncio.sleep(0.02)
    await world.refund("enough-" + slow.name, [taken])
    result = await take(world.other, (slow, 0), (twin, 0))
    assert abs(result.limit_results[0].remaining - result.limit_results[1].remaining) <= 1


async def test_a_window_that_is_over_is_not_refunded(redis_cluster: LoopbackCluster, bucket: MakeBucket) -> None:
    """What was taken from a quota's window is not refunded to the next one, from which it was not taken."""
    quota, request = bucket(Limit("second", Quota(10, Window.SECOND))), "over"
    clock, node = f"{{p{quota.partition}}}:clock:spanning", node_of(redis_cluster, quota)
    store = open_unguarded_store(
        redis_cluster.url, timeout=TIMEOUT, request_window=WINDOW, scripts=clocked_scripts(clock)
    )
    assert isinstance(store, SpanningStore)
    async with store:
        node.set(clock, 1_800_000_000 * MICRO - 1)  # a microsecond before the second is over
        (result,) = await store.charge((Charge((quota,), (3,), request),))
        node.set(clock, 1_800_000_000 * MICRO)
        await take(store, (quota, 2))
        assert await store._refund(request, [Taken(quota, 3, result.limit_results[0])])
        assert await used(store, quota) == [2]


async def test_a_refund_keeps_the_ttl(world: World, redis_cluster: LoopbackCluster, bucket: MakeBucket) -> None:
    """A bucket with a refund still expires when it would have expired without."""
    slow = bucket(TEN)
    key, node = bucket_key(slow), node_of(redis_cluster, slow)
    taken = await charge_named(world, slow, 3, "lives-" + slow.name)
    before = node.pttl(key)
    assert await world.refund("lives-" + slow.name, [taken])
    assert 0 < node.pttl(key) <= before


@pytest.mark.parametrize("limit", [TEN, QUOTA])
async def test_a_refund_beside_another_one(world: World, bucket: MakeBucket, limit: Limit) -> None:
    """A bucket that was refunded meanwhile is untouched after the refund, and never holds more than its capacity."""
    charged = bucket(limit)
    taken = await charge_named(world, charged, 3, "beside-" + charged.name)
    await take(world.other, (charged, -10))
    assert await world.refund("beside-" + charged.name, [taken])
    assert await used(world.other, charged) == [0]


async def test_a_refund_is_sent_again(world: World, redis_cluster: LoopbackCluster, bucket: MakeBucket) -> None:
    """A refund on a connection that was closed meanwhile is sent again on a new one."""
    ten = bucket(TEN)
    taken = await charge_named(world, ten, 3, "again-" + ten.name)
    assert not await world.refund("opens-the-connection", [taken])
    node_of(redis_cluster, ten).execute_command("CLIENT KILL", "TYPE", "normal", "SKIPME", "yes")
    assert await world.refund("again-" + ten.name, [taken])
    assert await used(world.other, ten) == [0]


async def test_a_failed_refund_is_counted(world: World, three: tuple[Bucket, ...]) -> None:
    """When the cluster is unavailable for the refund, the denial stands, and what was taken stays taken."""
    unreachable = Cluster([Address("127.0.0.1", 1)], Login())
    store = SpanningStore(world.under, Refunder(unreachable, request_window=WINDOW, timeout=1.0), world.usage)
    world.under.after[1] = lambda: take(world.other, (three[1], 3))
    assert not (await take(store, *((each, 1) for each in three))).charged
    assert (store.refunded, store.failed_refunds) == (1, 2)
    assert await used(world.other, *three) == [1, 3, 1]
