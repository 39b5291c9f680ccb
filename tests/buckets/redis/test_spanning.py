"""Charges of several partitions on a real Redis Cluster of three nodes: all or nothing, and never too much."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress

import pytest
import pytest_asyncio

from buckets.conftest import LoopbackCluster, MakeBucket, OpenStore
from ratelimit_service.buckets.redis.cluster import Cluster
from ratelimit_service.buckets.redis.cluster_store import ClusterBucketStore
from ratelimit_service.buckets.redis.connection import Endpoint, Login
from ratelimit_service.buckets.redis.spanning import GiveBack, SpanningStore, Taken
from ratelimit_service.decision.charge import NEVER, Bucket, Charge, Outcome
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

    async def charge(self, charges: Sequence[Charge]) -> Sequence[Outcome]:
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
        self.give_back: GiveBack = store._give_back
        self.store = SpanningStore(self.under, self.give_back)
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


async def take(store: BucketStore, *wanted: tuple[Bucket, int]) -> Outcome:
    """Make one charge."""
    buckets, costs = zip(*wanted, strict=True)
    (outcome,) = await store.charge((Charge(buckets, costs),))
    return outcome


async def used(store: BucketStore, *buckets: Bucket) -> list[int]:
    """How many whole tokens were taken from buckets that drain too slowly to matter."""
    looked = await take(store, *((bucket, 0) for bucket in buckets))
    pairs = zip(buckets, looked.weighed, strict=True)
    return [bucket.limit.capacity - round(weighed.remaining / MICRO) for bucket, weighed in pairs]


@pytest.fixture
def three(bucket: MakeBucket) -> tuple[Bucket, Bucket, Bucket]:
    """Three buckets in three partitions, each on another node."""
    return bucket(TEN, partition=0), bucket(THREE, partition=1), bucket(QUOTA, partition=2)


async def test_all_or_nothing(world: World, three: tuple[Bucket, Bucket, Bucket]) -> None:
    """A charge of several slots is made whole; one that has no room in one of them touches none and is not undone."""
    made = await take(world.store, *((one, 2) for one in three))
    assert made.charged
    assert [weighed.remaining // MICRO for weighed in made.weighed] == [8, 1, 8]
    denied = await take(world.store, *((one, 2) for one in three))
    assert not denied.charged
    assert [weighed.wait_us > 0 for weighed in denied.weighed] == [False, True, False]
    assert DAY_US - 60 * MICRO < denied.weighed[1].wait_us <= DAY_US
    assert await used(world.other, *three) == [2, 2, 2]
    assert world.store.given_back == 0
    never = await take(world.store, (three[0], 1), (three[1], 4))
    assert [weighed.wait_us for weighed in never.weighed] == [0, NEVER]


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
    assert [len(outcome.weighed) for outcome in outcomes] == [1, 3, 1, 2]
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
    assert world.store.given_back + world.other.given_back > 0, "no race was met, so nothing was tested"
    assert world.store.kept + world.other.kept == 0


async def test_a_lost_race_gives_all_back(world: World, three: tuple[Bucket, Bucket, Bucket]) -> None:
    """When somebody takes the room between the look and the charge, the others get back what was taken."""
    await take(world.other, *((one, 1) for one in three))
    world.under.after[1] = lambda: take(world.other, (three[1], 2))
    denied = await take(world.store, *((one, 2) for one in three))
    assert not denied.charged
    assert denied.weighed[1].wait_us > 0
    assert [denied.weighed[place].remaining // MICRO for place in (0, 2)] == [9, 9]
    assert world.store.given_back == 1
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
    return Taken(bucket, cost, outcome.weighed[0])


@pytest.mark.parametrize("limit", [TEN, QUOTA])
async def test_given_back_once(world: World, bucket: MakeBucket, limit: Limit) -> None:
    """However often it is asked, a charge is given back once, and one that was never made not at all."""
    one = bucket(limit)
    await take(world.other, (one, 5))
    taken = await charge_named(world, one, 3, "given-back-" + one.name)
    answers = [await world.give_back("given-back-" + one.name, [taken]) for _ in range(3)]
    assert answers == [True, False, False]
    assert await used(world.other, one) == [5]
    assert not await world.give_back("never-made", [taken])
    assert await used(world.other, one) == [5]


@pytest.mark.parametrize("before", [0, 30])
async def test_what_drained_is_not_given_back(world: World, bucket: MakeBucket, before: int) -> None:
    """A bucket that drains fast never has more after the giving back than its twin that was not charged at all."""
    fast, twin = bucket(FAST), bucket(FAST)

    async def both(cost: int) -> list[int]:
        return [weighed.remaining for weighed in (await take(world.other, (fast, cost), (twin, cost))).weighed]

    for pause in (0.0, 0.005, 0.03):
        await both(-100)
        await both(before)
        taken = await charge_named(world, fast, 50, f"drained-{pause}-{fast.name}")
        await asyncio.sleep(pause)
        await both(20)
        await world.give_back(f"drained-{pause}-{fast.name}", [taken])
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
    await world.give_back("enough-" + slow.name, [taken])
    outcome = await take(world.other, (slow, 0), (twin, 0))
    assert abs(outcome.weighed[0].remaining - outcome.weighed[1].remaining) <= 1


async def test_a_giving_back_that_cannot_be_made_is_counted(world: World, three: tuple[Bucket, ...]) -> None:
    """When the cluster cannot be asked to give back, the denial stands, and what was taken stays taken."""
    nobody = Cluster([Endpoint("127.0.0.1", 1)], Login())
    store = SpanningStore(world.under, GiveBack(nobody, request_window=WINDOW, timeout=1.0))
    world.under.after[1] = lambda: take(world.other, (three[1], 3))
    assert not (await take(store, *((one, 1) for one in three))).charged
    assert (store.given_back, store.kept) == (1, 2)
    assert await used(world.other, *three) == [1, 3, 1]
