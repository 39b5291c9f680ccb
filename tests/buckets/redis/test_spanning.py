"""Charges of several partitions on a real Redis Cluster of three nodes: all or nothing, and never too much."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress

import pytest
import pytest_asyncio
import redis
from redis.crc import key_slot

from buckets.clocked import TIMEOUT, clocked_script
from buckets.conftest import LoopbackCluster, MakeBucket, OpenStore
from ratelimit_service.buckets.redis.cluster import Cluster
from ratelimit_service.buckets.redis.cluster_store import ClusterBucketStore
from ratelimit_service.buckets.redis.connect import open_unguarded_store
from ratelimit_service.buckets.redis.connection import Address, Login
from ratelimit_service.buckets.redis.script import bucket_key
from ratelimit_service.buckets.redis.spanning import Refunder, SpanningStore, Taken
from ratelimit_service.decision.charge import NEVER, Bucket, Charge, ChargeResult
from ratelimit_service.decision.limit import MICRO, Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.ports import BucketStore, StoreUnavailable

DAY_US = 86_400 * MICRO
# They refill too slowly to matter while a test runs.
TEN = Limit("ten", TokenBucket(10, 1, DAY_US))
THREE = Limit("three", TokenBucket(3, 1, DAY_US))
QUOTA = Limit("quota", Quota(10, Window.YEAR))
FAST = Limit("fast", TokenBucket(100, 1_000, MICRO))
SHADOW = Limit("shadow", TokenBucket(1, 1, DAY_US), mode=Mode.SHADOW)
WINDOW = 60.0


class Interfering:
    """The cluster's store, with something that happens right before or after one of its calls, by its number."""

    def __init__(self, store: ClusterBucketStore) -> None:
        self._store = store
        self.before: dict[int, Callable[[], Awaitable[object]]] = {}
        self.after: dict[int, Callable[[], Awaitable[object]]] = {}
        self.calls = 0

    async def charge(self, charges: Sequence[Charge]) -> Sequence[ChargeResult]:
        self.calls = number = self.calls + 1
        if number in self.before:
            await self.before[number]()
        outcomes = await self._store.charge(charges)
        if number in self.after:
            await self.after[number]()
        return outcomes

    async def ping(self) -> None:
        await self._store.ping()

    async def close(self) -> None:
        await self._store.close()


class World:
    """A spanning store, what is under it, and another server's store on the same cluster."""

    def __init__(self, store: SpanningStore, other: SpanningStore) -> None:
        inner = store._store
        assert isinstance(inner, ClusterBucketStore)
        self.under = Interfering(inner)
        self.refund: Refunder = store._refund
        self.store = SpanningStore(self.under, self.refund)
        self.other = other


@pytest_asyncio.fixture
async def world(redis_cluster: LoopbackCluster, open_store: OpenStore) -> AsyncIterator[World]:
    """Two servers on one cluster."""
    store, other = (open_store(redis_cluster.url, request_window=WINDOW) for _ in "12")
    assert isinstance(store, SpanningStore)
    assert isinstance(other, SpanningStore)
    world = World(store, other)
    yield world
    await asyncio.gather(*world.store._working, return_exceptions=True)


async def take(store: BucketStore, *wanted: tuple[Bucket, int]) -> ChargeResult:
    """Make one charge."""
    buckets, costs = zip(*wanted, strict=True)
    (outcome,) = await store.charge((Charge(buckets, costs),))
    return outcome


async def used(store: BucketStore, *buckets: Bucket) -> list[int]:
    """How many whole tokens were taken from buckets that drain too slowly to matter."""
    peeked = await take(store, *((bucket, 0) for bucket in buckets))
    pairs = zip(buckets, peeked.results, strict=True)
    return [bucket.limit.capacity - round(results.remaining / MICRO) for bucket, results in pairs]


@pytest.fixture
def three(bucket: MakeBucket) -> tuple[Bucket, Bucket, Bucket]:
    """Three buckets in three partitions, each on another node."""
    return bucket(TEN, partition=0), bucket(THREE, partition=1), bucket(QUOTA, partition=2)


async def test_all_or_nothing(world: World, three: tuple[Bucket, Bucket, Bucket]) -> None:
    """A charge of several slots is made whole; one that has no room in one of them touches none and is not undone."""
    made = await take(world.store, *((one, 2) for one in three))
    assert made.charged
    assert [results.remaining // MICRO for results in made.results] == [8, 1, 8]
    denied = await take(world.store, *((one, 2) for one in three))
    assert not denied.charged
    assert [results.wait_us > 0 for results in denied.results] == [False, True, False]
    assert DAY_US - 60 * MICRO < denied.results[1].wait_us <= DAY_US
    assert await used(world.other, *three) == [2, 2, 2]
    assert world.store.refunded == 0
    never = await take(world.store, (three[0], 1), (three[1], 4))
    assert [results.wait_us for results in never.results] == [0, NEVER]


async def test_order_of_answers(world: World, three: tuple[Bucket, Bucket, Bucket], bucket: MakeBucket) -> None:
    """Charges of one partition and of several in one call are answered in their order."""
    near = bucket(QUOTA, partition=0)
    charges = (
        Charge((three[0],), (1,)),
        Charge((three[0], three[1], near), (2, 3, 4)),
        Charge((near,), (1,)),
        Charge((three[1], three[2]), (1, 1)),
    )
    outcomes = await world.store.charge(charges)
    assert [len(outcome.results) for outcome in outcomes] == [1, 3, 1, 2]
    assert [outcomes[place].charged for place in (0, 2)] == [True, True]
    assert sum(outcomes[place].charged for place in (1, 3)) == 1  # they compete for the second bucket


async def test_never_too_much_under_races(world: World, three: tuple[Bucket, Bucket, Bucket]) -> None:
    """However many ask at once at two servers, no bucket passes its limit, and what is used is what was allowed."""
    ten, scarce, quota = three
    wanted = [((ten, 1), (scarce, 1)), ((scarce, 1), (quota, 1)), ((ten, 1), (quota, 1))] * 15
    outcomes = await asyncio.gather(
        *(take((world.store, world.other)[place % 2], *one) for place, one in enumerate(wanted))
    )
    allowed = [one for one, outcome in zip(wanted, outcomes, strict=True) if outcome.charged]
    counts = [sum(bucket is each for one in allowed for bucket, _ in one) for each in three]
    assert await used(world.store, *three) == counts
    assert all(count <= each.limit.capacity for count, each in zip(counts, three, strict=True))
    assert world.store.refunded + world.other.refunded > 0, "no race was met, so nothing was tested"
    assert world.store.kept + world.other.kept == 0


async def test_a_lost_race_gives_all_back(world: World, three: tuple[Bucket, Bucket, Bucket]) -> None:
    """When somebody takes the room between the look and the charge, the others get back what was taken."""
    await take(world.other, *((one, 1) for one in three))
    world.under.after[1] = lambda: take(world.other, (three[1], 2))
    denied = await take(world.store, *((one, 2) for one in three))
    assert not denied.charged
    assert denied.results[1].wait_us > 0
    assert [denied.results[place].remaining // MICRO for place in (0, 2)] == [9, 9]
    assert world.store.refunded == 1
    assert await used(world.other, *three) == [1, 3, 1]


async def test_shadows_neither_deny_nor_are_given_back(world: World, bucket: MakeBucket) -> None:
    """A shadow without room lets the charge pass, and is not given back what it did not take."""
    shadow, ten, three = bucket(SHADOW, partition=3), bucket(TEN, partition=0), bucket(THREE, partition=1)
    for _ in range(2):
        assert (await take(world.store, (shadow, 1), (ten, 1))).charged
    assert await used(world.other, shadow, ten) == [1, 2]
    world.under.after[world.under.calls + 1] = lambda: take(world.other, (three, 3))
    assert not (await take(world.store, (shadow, 1), (ten, 1), (three, 1))).charged
    assert await used(world.other, shadow, ten, three) == [1, 2, 3]


async def test_looks_and_give_backs(world: World, three: tuple[Bucket, Bucket, Bucket]) -> None:
    """Costs of 0 look and negative ones give back, at once when nothing is taken, and not at all on a denial."""
    await take(world.store, *((one, 3) for one in three))
    assert (await take(world.store, (three[0], -2), (three[1], 0))).charged
    assert await used(world.other, *three) == [1, 3, 3]
    assert not (await take(world.store, (three[0], -1), (three[1], 1))).charged
    assert await used(world.other, *three) == [1, 3, 3]
    assert (await take(world.store, (three[1], -1), (three[2], 1), (three[0], 0))).charged
    assert await used(world.other, *three) == [1, 2, 4]


async def test_a_failure_gives_back(world: World, three: tuple[Bucket, Bucket, Bucket]) -> None:
    """When one slot cannot be asked, the call fails and the others get back what was taken."""

    async def fail() -> None:
        raise StoreUnavailable("one node is away")

    world.under.before[3] = fail  # the look, and then one call for each slot
    with pytest.raises(StoreUnavailable, match="one node"):
        await take(world.store, *((one, 1) for one in three))
    assert await used(world.other, *three) == [0, 0, 0]


async def test_a_caller_that_gives_up(world: World, three: tuple[Bucket, Bucket, Bucket]) -> None:
    """A caller that is cancelled at any moment leaves a charge that was made whole, or none."""
    for turns in range(12):
        before = await used(world.other, *three)
        calling = asyncio.ensure_future(take(world.store, *((one, 1) for one in three)))
        for _ in range(turns):
            await asyncio.sleep(0.0002)
        calling.cancel()
        with suppress(asyncio.CancelledError):
            await calling
        await asyncio.gather(*world.store._working, return_exceptions=True)
        after = await used(world.other, *three)
        assert len({now - then for now, then in zip(after, before, strict=True)}) == 1
        await take(world.other, *((one, -1) for one in three))


async def test_no_request_names(world: World, three: tuple[Bucket, Bucket, Bucket]) -> None:
    """A charge of several partitions cannot be recognised when it is repeated, so a name for it is refused."""
    with pytest.raises(ValueError, match="request name"):
        await world.store.charge((Charge(three, (1, 1, 1), "name"),))


async def charge_named(world: World, bucket: Bucket, cost: int, request: str) -> Taken:
    """Charge a bucket under a request's name."""
    (outcome,) = await world.other.charge((Charge((bucket,), (cost,), request),))
    assert outcome.charged
    return Taken(bucket, cost, outcome.results[0])


def node_of(cluster: LoopbackCluster, bucket: Bucket) -> redis.Redis:
    """A client of the node that has the bucket."""
    return cluster.clients[key_slot(b"{p%d}" % bucket.partition) * 3 // 16_384]


@pytest.mark.parametrize("limit", [TEN, QUOTA])
async def test_given_back_once(world: World, bucket: MakeBucket, limit: Limit) -> None:
    """However often it is asked, a charge is given back once, and one that was never made not at all."""
    one = bucket(limit)
    await take(world.other, (one, 5))
    taken = await charge_named(world, one, 3, "given-back-" + one.name)
    answers = [await world.refund("given-back-" + one.name, [taken]) for _ in range(3)]
    assert answers == [True, False, False]
    assert await used(world.other, one) == [5]
    assert not await world.refund("never-made", [taken])
    assert await used(world.other, one) == [5]


@pytest.mark.parametrize("before", [0, 30])
async def test_what_drained_is_not_given_back(world: World, bucket: MakeBucket, before: int) -> None:
    """A bucket that drains fast never has more after the giving back than its twin that was not charged at all."""
    fast, twin = bucket(FAST), bucket(FAST)

    async def both(cost: int) -> list[int]:
        return [results.remaining for results in (await take(world.other, (fast, cost), (twin, cost))).results]

    for pause in (0.0, 0.005, 0.03):
        await both(-100)
        await both(before)
        taken = await charge_named(world, fast, 50, f"drained-{pause}-{fast.name}")
        await asyncio.sleep(pause)
        await both(20)
        await world.refund(f"drained-{pause}-{fast.name}", [taken])
        of_fast, of_twin = await both(0)
        assert of_fast <= of_twin
        # What is lost at the most is what drains in the pause and in a few milliseconds around it.
        assert of_twin - of_fast <= 50 * MICRO


async def test_a_bucket_with_enough_use_gets_all_back(world: World, bucket: MakeBucket) -> None:
    """A bucket that had more used than drains meanwhile is afterwards what it would be without the charge."""
    slow, twin = bucket(TEN), bucket(TEN)
    await take(world.other, (slow, 5), (twin, 5))
    taken = await charge_named(world, slow, 3, "enough-" + slow.name)
    await asyncio.sleep(0.02)
    await world.refund("enough-" + slow.name, [taken])
    outcome = await take(world.other, (slow, 0), (twin, 0))
    assert abs(outcome.results[0].remaining - outcome.results[1].remaining) <= 1


async def test_a_window_that_is_over_gets_nothing_back(redis_cluster: LoopbackCluster, bucket: MakeBucket) -> None:
    """What was taken from a quota's window is not given back to the next one, where it was not taken."""
    quota, request = bucket(Limit("second", Quota(10, Window.SECOND))), "over"
    clock, node = f"{{p{quota.partition}}}:clock:spanning", node_of(redis_cluster, quota)
    store = open_unguarded_store(
        redis_cluster.url, timeout=TIMEOUT, request_window=WINDOW, script=clocked_script(clock)
    )
    assert isinstance(store, SpanningStore)
    async with store:
        node.set(clock, 1_800_000_000 * MICRO - 1)  # a microsecond before the second is over
        (outcome,) = await store.charge((Charge((quota,), (3,), request),))
        node.set(clock, 1_800_000_000 * MICRO)
        await take(store, (quota, 2))
        assert await store._refund(request, [Taken(quota, 3, outcome.results[0])])
        assert await used(store, quota) == [2]


async def test_what_is_given_back_lives_no_longer(
    world: World, redis_cluster: LoopbackCluster, bucket: MakeBucket
) -> None:
    """A bucket that got something back is still forgotten when it would have been."""
    slow = bucket(TEN)
    key, node = bucket_key(slow), node_of(redis_cluster, slow)
    taken = await charge_named(world, slow, 3, "lives-" + slow.name)
    before = node.pttl(key)
    assert await world.refund("lives-" + slow.name, [taken])
    assert 0 < node.pttl(key) <= before


async def test_a_giving_back_that_cannot_be_made_is_counted(world: World, three: tuple[Bucket, ...]) -> None:
    """When the cluster cannot be asked to give back, the denial stands, and what was taken stays taken."""
    nobody = Cluster([Address("127.0.0.1", 1)], Login())
    store = SpanningStore(world.under, Refunder(nobody, request_window=WINDOW, timeout=1.0))
    world.under.after[1] = lambda: take(world.other, (three[1], 3))
    assert not (await take(store, *((one, 1) for one in three))).charged
    assert (store.refunded, store.kept) == (1, 2)
    assert await used(world.other, *three) == [1, 3, 1]
