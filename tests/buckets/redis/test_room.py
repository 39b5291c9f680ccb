"""What a server without much memory still does: all but new buckets, of which it refuses some before others."""

import asyncio
import time
from collections.abc import Sequence
from itertools import product
from os import urandom

import pytest
import redis

from buckets.conftest import MakeBucket, OpenStore, Store
from buckets.redis.usage import UsageReader
from fixtures.redis_cluster import LoopbackCluster
from fixtures.valkey import StartValkey
from ratelimit_service.buckets.redis.connect import open_bucket_store, open_usage_store
from ratelimit_service.buckets.redis.connection import Connection
from ratelimit_service.buckets.redis.observers import Observers
from ratelimit_service.buckets.redis.room import Room, room_of, share_of
from ratelimit_service.buckets.redis.script import grant_key, request_key, reservation_key, usage_script
from ratelimit_service.buckets.redis.spanning import SpanningStore, Taken
from ratelimit_service.buckets.redis.store import RedisBucketStore
from ratelimit_service.decision.charge import (
    NO_ROOM,
    Bucket,
    Charge,
    ChargeResult,
    Counted,
    Reserve,
    Return,
    Settle,
)
from ratelimit_service.decision.limit import MICRO, Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.ports import BucketStore
from ratelimit_service.decision.usage import Series
from ratelimit_service.metrics import RoundTripCounts
from ratelimit_service.usage.segment import SegmentRef

LIMIT = Limit("limit", TokenBucket(5, 1, 86_400 * MICRO))
SHADOW = Limit("shadow", Quota(5, Window.YEAR), mode=Mode.SHADOW)
FEW = 4
"""New buckets of a family that a partition gets in a minute while room is SCARCE."""


def new(number: int, family: int, limit: Limit = LIMIT, partition: int = 0) -> Bucket:
    """A bucket that nobody has charged yet."""
    return Bucket(f"new.{time.monotonic_ns()}.{number}", partition, limit, family)


async def take(store: BucketStore, *buckets: Bucket, cost: int = 1, request: str = "") -> ChargeResult:
    """Take COST tokens from each."""
    (result,) = await store.charge((Charge(buckets, (cost,) * len(buckets), request),))
    return result


async def with_room(store: Store, room: Room) -> None:
    """Have the store's server count as one that has this room."""
    await store.ping()
    connection_of(store).room = room


def connection_of(store: Store) -> Connection:
    """The connection of a store on one server."""
    assert isinstance(store, RedisBucketStore)
    connection = store._route.connection()
    assert connection is not None
    return connection


@pytest.mark.parametrize("room", Room)
async def test_buckets_that_exist_are_charged(
    valkey_url: str, open_store: OpenStore, bucket: MakeBucket, room: Room
) -> None:
    """However little room there is: exactly up to their limit, and refunded, one by one and together."""
    store = open_store(valkey_url)
    own, chosen = bucket(LIMIT), new(0, family=7)
    await take(store, own, chosen)
    await with_room(store, room)
    results = [await take(store, own, chosen) for _ in range(6)]
    assert [result.charged for result in results] == [True] * 4 + [False] * 2
    assert all(limit.wait_us > 0 for limit in results[-1].limit_results)
    assert (await take(store, own, cost=-2)).limit_results[0].remaining == 2 * MICRO
    assert [(await take(store, own)).charged for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("room", "admins", "clients"),
    [(Room.PLENTY, 20, 20), (Room.SCARCE, 20, FEW), (Room.RESERVED, 20, 0), (Room.FULL, 0, 0)],
)
async def test_who_gets_new_buckets(
    valkey_url: str, open_store: OpenStore, room: Room, admins: int, clients: int
) -> None:
    """The less room there is, the fewer: first those go without that callers make by choosing values."""
    store, family = open_store(valkey_url), time.monotonic_ns() % 2**32
    await with_room(store, room)
    for wanted, of in ((admins, 0), (clients, family), (clients, family + 1)):
        made = [await take(store, new(number, of)) for number in range(20)]
        assert sum(result.charged for result in made) == wanted
        refused = [result.limit_results[0] for result in made if not result.charged]
        assert {limit.wait_us for limit in refused} <= {NO_ROOM}


async def test_a_batch_gets_few_as_well(valkey_url: str, open_store: OpenStore) -> None:
    """What one run makes is counted like what several make; a charge that is denied in part uses nothing up."""
    store, family = open_store(valkey_url), time.monotonic_ns() % 2**32
    await with_room(store, Room.SCARCE)
    many = [Charge(tuple(new(10 * row + number, family) for number in range(3)), (1,) * 3) for row in range(4)]
    results = await store.charge(many)
    assert [result.charged for result in results] == [True, False, False, False]
    assert [(await take(store, new(number, family))).charged for number in range(3)] == [True, False, False]


async def test_nothing_of_a_denied_charge_is_made(valkey_url: str, open_store: OpenStore, bucket: MakeBucket) -> None:
    """A bucket that exists loses nothing when one beside it finds no room."""
    store, own = open_store(valkey_url), bucket(LIMIT)
    await take(store, own)
    await with_room(store, Room.FULL)
    result = await take(store, own, new(0, family=0))
    assert not result.charged
    assert [limit.wait_us for limit in result.limit_results] == [0, NO_ROOM]
    assert (await take(store, own, cost=0)).limit_results[0].remaining == 4 * MICRO


@pytest.mark.parametrize("room", [Room.RESERVED, Room.FULL])
async def test_nothing_of_a_denied_charge_stays_in_a_cluster(
    redis_cluster: LoopbackCluster, open_store: OpenStore, bucket: MakeBucket, room: Room
) -> None:
    """What another node has charged before one finds no room is refunded."""
    store, own = open_store(redis_cluster.url), bucket(LIMIT, partition=200)
    assert isinstance(store, SpanningStore)
    await take(store, own)
    await store.ping()
    for connection in store._store.cluster.connections():
        connection.room = room
    result = await take(store, own, new(0, family=7))
    assert not result.charged
    assert result.limit_results[1].wait_us == NO_ROOM
    assert (await take(store, own, cost=0)).limit_results[0].remaining == 4 * MICRO
    assert (store.refunded, store.failed_refunds) == (1, 0)


REFILLED = Limit("refilled", TokenBucket(5, 5, 20 * MICRO))
"""A token every 4 s: full again long before the result of a request is forgotten."""


@pytest.mark.parametrize(
    ("limit", "room", "partition"),
    [*product((LIMIT, REFILLED), (Room.FULL,), (0, 1)), (REFILLED, Room.RESERVED, 0)],
)
async def test_a_full_node_refunds_what_it_charged(
    redis_cluster: LoopbackCluster,
    open_store: OpenStore,
    bucket: MakeBucket,
    *,
    limit: Limit,
    room: Room,
    partition: int,
) -> None:
    """It keeps the result for less time, which is not taken for time that has passed, in which it would have drained.

    Both parts are on full nodes: on two, or on one.
    """
    store, own = open_store(redis_cluster.url, request_window=30), bucket(limit, partition=partition)
    assert isinstance(store, SpanningStore)
    await take(store, own)
    await store.ping()
    for connection in store._store.cluster.connections():
        connection.room = room
    fresh = new(0, family=7, partition=3)
    for _ in range(4):
        result = await take(store, own, fresh)
        assert not result.charged
        assert result.limit_results[1].wait_us == NO_ROOM
    remaining = (await take(store, own, cost=0)).limit_results[0].remaining
    assert remaining >= 4 * MICRO
    assert (store.refunded, store.failed_refunds) == (4, 0)


async def test_a_shadow_bucket_without_room_gets_no_refund(
    redis_cluster: LoopbackCluster, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """What was not taken from it is not refunded, though another server has made it and charged it meanwhile."""
    store, other = (open_store(redis_cluster.url, request_window=30) for _ in range(2))
    assert isinstance(store, SpanningStore)
    slow = Limit("slow", TokenBucket(5, 1, 86_400 * MICRO), mode=Mode.SHADOW)
    shadow, own = bucket(slow, partition=1), bucket(LIMIT, partition=1)
    await take(store, own)
    await store.ping()
    for connection in store._store.cluster.connections():
        connection.room = Room.FULL
    refund = store._refund

    async def late(request: str, taken: Sequence[Taken]) -> bool:
        await take(other, shadow)
        return await refund(request, taken)

    store._refund = late
    assert not (await take(store, own, shadow, new(0, 0, partition=200))).charged
    left = [(await take(other, each, cost=0)).limit_results[0].remaining for each in (own, shadow)]
    assert [round(remaining / MICRO) for remaining in left] == [4, 4]


async def test_a_denial_for_want_of_room_is_not_kept(valkey_url: str, open_store: OpenStore) -> None:
    """A repeat under the same request id is charged once there is room, and then recognized."""
    store, fresh, request = open_store(valkey_url), new(0, family=7), str(time.monotonic_ns())
    for room in (Room.RESERVED, Room.FULL):
        await with_room(store, room)
        assert not (await take(store, fresh, request=request)).charged
        with redis.Redis.from_url(valkey_url) as client:
            assert not client.exists(request_key(0, request))
    await with_room(store, Room.PLENTY)
    for _ in range(2):
        result = await take(store, fresh, request=request)
        assert (result.charged, result.limit_results[0].remaining) == (True, 4 * MICRO)


async def test_a_shadow_limit_without_room_denies_nothing(valkey_url: str, open_store: OpenStore) -> None:
    """It is only not counted; nor are peeks and refunds denied."""
    store = open_store(valkey_url)
    await with_room(store, Room.FULL)
    for cost, limit in ((1, SHADOW), (0, LIMIT), (-1, LIMIT)):
        fresh = new(0, 0, limit)
        result = await take(store, fresh, cost=cost)
        assert result.charged
        assert result.limit_results[0].wait_us == 0
        assert (await take(store, fresh, cost=0)).limit_results[0].remaining == 5 * MICRO


@pytest.mark.parametrize("room", [Room.SCARCE, Room.RESERVED, Room.FULL])
async def test_results_of_requests_are_kept_for_a_moment(valkey_url: str, open_store: OpenStore, room: Room) -> None:
    """Where room is scarce a repeat is recognized, but only for seconds: callers choose the names, and pay nothing.

    So it is with reservations that were settled and grants that were returned.
    """
    store, own, request = open_store(valkey_url, request_window=30), new(0, 0), str(time.monotonic_ns())
    name, grant = urandom(16), urandom(16)
    await take(store, own)
    await store.charge((Charge((own,), (1,), reservation=Reserve(name, 60 * MICRO)),))
    await with_room(store, room)
    assert await take(store, own, cost=0, request=request) == await take(store, own, cost=0, request=request)
    await store.charge((Charge((own,), (0,), reservation=Settle(name, (1,))),))
    await store.charge((Charge((own,), (0,), reservation=Return(grant, 1)),))
    with redis.Redis.from_url(valkey_url) as client:
        for key in (request_key(0, request), reservation_key(0, name), grant_key(0, grant)):
            assert 0 < client.pttl(key) <= 2_000
        await with_room(store, Room.PLENTY)
        await take(store, own, cost=0, request=f"{request} later")
        assert client.pttl(request_key(0, f"{request} later")) > 20_000


async def test_a_server_out_of_memory(valkey: StartValkey, open_store: OpenStore) -> None:
    """It refuses scripts, and is charged by one that it does not refuse, in the same call; so it is when pinged."""
    server = valkey()
    store, own, counted = open_store(server.url), new(0, 0), Series.of_key("k", "r", "s", "p", ["limit"])
    with redis.Redis.from_url(server.url) as client:
        await store.charge((Charge((own,), (1,), "", (Counted(counted, 1),)),))
        client.config_set("maxmemory", 1_000)
        await store.ping()
        connection_of(store).room = Room.PLENTY
        (result,) = await store.charge((Charge((own,), (1,), "", (Counted(counted, 1),)),))
        assert result.charged
        assert connection_of(store).room is Room.FULL
        assert (await take(store, own)).limit_results[0].remaining == 2 * MICRO
        assert not (await take(store, new(1, 0))).charged
        (counts,) = UsageReader(client).open().values()
        assert counts.allowed == 2


async def test_usage_of_a_server_out_of_memory(valkey: StartValkey, open_store: OpenStore) -> None:
    """Segments are frozen, read and removed, which makes room."""
    server = valkey()
    store, counted = open_store(server.url), Series.of_key("k", "r", "s", "p", ["limit"])
    await store.charge((Charge((new(0, 0),), (1,), "", (Counted(counted, 1),)),))
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", 1_000)
        later = usage_script("freeze", clock="local now = 4e15")
        usage = open_usage_store(server.url, usage_bytes=2**20, freeze=later)
        (queue,) = (await usage.freeze()).queues
        ref = SegmentRef(queue.tag, queue.names[0])
        segment = await usage.read(ref)
        assert segment is not None
        await usage.remove([ref])
        assert not (await usage.freeze()).queues
        await usage.close()


async def test_the_room_of_a_server_is_watched(valkey: StartValkey) -> None:
    """A store notices within a second or so how much of its memory a server uses, and when that changes."""
    server, counts = valkey(), RoundTripCounts()
    with redis.Redis.from_url(server.url) as client:
        client.set("others", b"x" * 2**24)
        client.config_set("maxmemory", 2**24 * 5 // 4)
        opened = open_bucket_store(
            server.url, timeout=1, request_window=30, usage_bytes=2**28, observers=Observers(counts)
        )
        async with opened as store:
            await store.ping()
            await until(counts, 0.8, 0.9)
            assert (await take(store, new(0, 1))).charged
            for number in range(FEW):
                await take(store, new(number, 1))
            assert counts.refused_buckets > 0
            client.config_set("maxmemory", 2**30)
            await until(counts, 0.0, 0.1)
            assert (await take(store, new(9, 1))).charged


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru"])
async def test_a_server_that_evicts_gets_new_buckets(valkey: StartValkey, policy: str) -> None:
    """All of its memory is used at any time, and it makes room itself."""
    server, counts = valkey(), RoundTripCounts()
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", policy)
        client.config_set("maxmemory", 2**23)
        for number in range(2_000):
            client.set(f"others:{number}", b"x" * 2**13, ex=600)
        assert client.info("stats")["evicted_keys"] > 0
        opened = open_bucket_store(
            server.url, timeout=1, request_window=30, usage_bytes=2**28, observers=Observers(counts)
        )
        async with opened as store:
            await store.ping()
            await until(counts, 0.9, 1.1)
            for number in range(3 * FEW):
                assert (await take(store, new(number, 1))).charged
                assert (await take(store, new(number, 0))).charged
            assert counts.refused_buckets == 0
            assert counts.eviction == policy
            client.config_set("maxmemory-policy", "noeviction")
            deadline = time.monotonic() + 10
            while counts.eviction:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)


async def until(counts: RoundTripCounts, least: float, most: float) -> None:
    """Wait for the share of memory to be between these two."""
    deadline = time.monotonic() + 10
    while not least < counts.memory_share < most:
        assert time.monotonic() < deadline, counts.memory_share
        await asyncio.sleep(0.02)


INFO = b"# Memory\r\nused_memory:%d\r\nmem_not_counted_for_evict:100\r\nmaxmemory:%d\r\ntotal_system_memory:%d\r\n"


@pytest.mark.parametrize(
    ("used", "maximum", "machine", "bound", "share"),
    [
        (600, 1_000, 10_000, 0, 0.5),
        (600, 1_000, 10_000, 500, 1.0),
        (600, 1_000, 10_000, 5_000, 0.5),
        (600, 0, 10_000, 0, 0.1),
        (600, 0, 10_000, 1_000, 0.5),
        (600, 0, 0, 0, 0.0),
        (600, 0, 0, 500, 1.0),
    ],
)
def test_the_share_of_memory(used: int, maximum: int, machine: int, bound: int, share: float) -> None:
    """It is that of maxmemory, else of half of the machine's, and never of more than the setting says."""
    assert share_of(INFO % (used, maximum, machine), bound) == share


SHARES = (0, 790, 800, 890, 900, 990, 1_000, 1_500)  # thousandths


@pytest.mark.parametrize(("maximum", "bound"), [(1_000, 0), (0, 1_000), (5_000, 1_000)])
def test_the_room_for_a_share(maximum: int, bound: int) -> None:
    """Four fifths are for all, the tenth after that for few, and beyond what is allowed there is none."""
    rooms = [room_of(INFO % (share + 100, maximum, 10**6), bound) for share in SHARES]
    assert rooms == [Room.PLENTY] * 2 + [Room.SCARCE] * 2 + [Room.RESERVED] * 2 + [Room.FULL] * 2


def test_a_server_without_a_bound_is_never_full() -> None:
    """It takes more, as far as anybody knows: half of its machine's memory is a guess."""
    rooms = [room_of(INFO % (share + 100, 0, 2_000), 0) for share in SHARES]
    assert rooms == [Room.PLENTY] * 2 + [Room.SCARCE] * 2 + [Room.RESERVED] * 4


def test_the_room_of_a_server_that_evicts() -> None:
    """It makes room itself at its maxmemory, but not at a bound below, and not without one."""
    for policy in (b"allkeys-lru", b"volatile-lru"):
        full = INFO % (1_600, 1_000, 10**6) + b"maxmemory_policy:" + policy + b"\r\n"
        assert [room_of(full, bound) for bound in (0, 1_000, 999)] == [Room.PLENTY, Room.PLENTY, Room.FULL]
        unbounded = INFO % (1_600, 0, 2_000) + b"maxmemory_policy:" + policy + b"\r\n"
        assert [room_of(unbounded, bound) for bound in (0, 1_000)] == [Room.RESERVED, Room.FULL]
