"""What is known of a cluster, when nodes are lost, or slow to say it."""

import asyncio
import time
from functools import partial

import pytest

from buckets.conftest import LoopbackCluster, MakeBucket
from faults.lost_host import lost_host
from faults.proxy import FaultProxy
from ratelimit_service.buckets.breaker import SLOW
from ratelimit_service.buckets.redis.cluster import CONNECT_SECONDS, Cluster, slot_of
from ratelimit_service.buckets.redis.cluster_store import ClusterBucketStore
from ratelimit_service.buckets.redis.connect import open_bucket_store, open_unguarded_store
from ratelimit_service.buckets.redis.connection import Address, Login
from ratelimit_service.buckets.redis.observers import UNOBSERVED
from ratelimit_service.buckets.redis.spanning import SpanningStore
from ratelimit_service.decision.charge import Bucket, Charge
from ratelimit_service.decision.limit import Limit, Quota, Window
from ratelimit_service.decision.policy import PARTITIONS
from ratelimit_service.decision.ports import BucketStore, StoreUnavailable

LARGE = Limit("large", Quota(1_000_000, Window.YEAR))


async def decides(store: BucketStore, bucket: Bucket) -> bool:
    """Whether the store decides a call now."""
    try:
        await store.charge((Charge((bucket,), (1,)),))
    except StoreUnavailable:
        return False
    return True


async def until_decided(store: BucketStore, bucket: Bucket, seconds: float) -> None:
    """Try, as probes do, until the store decides a call, which it must within so many seconds."""
    until = time.monotonic() + seconds
    while not await decides(store, bucket):
        assert time.monotonic() < until
        await asyncio.sleep(0.1)


def test_slots_are_those_of_the_cluster(redis_cluster: LoopbackCluster) -> None:
    """Each partition has the slot that Redis computes for its buckets' names."""
    client = redis_cluster.clients[0]
    slots = [client.execute_command("CLUSTER KEYSLOT", f"{{p{number}}}:x") for number in range(PARTITIONS)]
    assert slots == [slot_of(number) for number in range(PARTITIONS)]


@pytest.mark.parametrize("seconds", [0.03, 0.1])
async def test_an_owner_that_is_lost_is_replaced(
    redis_cluster: LoopbackCluster, bucket: MakeBucket, seconds: float
) -> None:
    """Calls that give up long before the connection does learn soon which node has taken the slot over."""
    store = open_unguarded_store(redis_cluster.url, timeout=seconds, request_window=60)
    assert isinstance(store, SpanningStore)
    inner = store._store
    assert isinstance(inner, ClusterBucketStore)
    large = bucket(LARGE)
    async with store:
        await until_decided(store, large, 10)
        with lost_host() as port:
            inner.cluster.set_owner(slot_of(large.partition), Address("127.0.0.1", port))
            assert not await decides(store, large)
            await until_decided(store, large, CONNECT_SECONDS + 5)


async def test_a_cluster_that_is_lost_is_unavailable() -> None:
    """Neither a connection nor the topology is waited for any longer when no node responds."""
    with lost_host() as port:
        node = Address("127.0.0.1", port)
        cluster = Cluster([node], Login())
        for attempt in (partial(cluster.connect, node), cluster.refresh_slots):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match=rf"{node} did not respond within"):
                await asyncio.wait_for(attempt(), CONNECT_SECONDS + 5)
            assert time.monotonic() - began >= CONNECT_SECONDS - 0.05
        await cluster.close()


async def test_a_cluster_that_is_slow_at_the_start(redis_cluster: LoopbackCluster, bucket: MakeBucket) -> None:
    """The breaker that is open while nobody says which nodes there are is closed when they are known."""
    with FaultProxy(redis_cluster.nodes[0].port) as proxy:
        proxy.inject(delay=0.2)
        url = f"redis+cluster://127.0.0.1:{proxy.port}"
        async with open_bucket_store(
            url, timeout=2, request_window=60, usage_bytes=2**28, observers=UNOBSERVED, slow=SLOW
        ) as store:
            assert await decides(store, bucket(LARGE))
            assert store.breaker_open
            until = time.monotonic() + 5
            while store.breaker_open:
                assert time.monotonic() < until
                await asyncio.sleep(0.02)
