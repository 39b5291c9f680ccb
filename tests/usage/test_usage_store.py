"""The segments in the store: frozen when their minute is over, read whole, removed once; on every kind of store."""

import asyncio
import struct
import time

import pytest
import redis

from fixtures.redis_cluster import LoopbackCluster
from fixtures.valkey import StartValkey
from ratelimit_service.buckets.redis.cluster import slot_of
from ratelimit_service.buckets.redis.connect import open_usage_store
from ratelimit_service.buckets.redis.usage_store import NAMES, SCAN_COUNT
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.usage.segment import MINUTE_US, SegmentRef
from usage.world import MINUTE, UsageWorld, losses, of_key, of_rule, totals, write_segment


async def test_a_segment_is_read_whole(world: UsageWorld) -> None:
    """Fields beyond one reading are all there, each once."""
    count = 3 * SCAN_COUNT
    name = write_segment(world.client, {of_key(f"k{number}"): [1] for number in range(count)})

    segment = await world.store.read(SegmentRef("{u}", name))

    assert segment is not None
    assert segment.fields == segment.calls == count
    assert len({row.series for row in segment.rows}) == count
    assert await world.store.read(SegmentRef("{u}", "9.9")) is None


async def test_removed_once(world: UsageWorld) -> None:
    """Removing again changes nothing, and the bytes of what is left stay as they are."""
    names = [
        write_segment(world.client, {of_key("k1"): [1]}, number=number, minute=MINUTE + number) for number in (1, 2)
    ]
    ref = SegmentRef("{u}", names[0])

    for _ in range(3):
        await world.store.remove([ref])

    (queue,) = (await world.store.freeze()).queues
    assert (queue.names, queue.segments, queue.bytes) == ([names[1]], 1, 100)


async def test_long_queues_are_read_in_parts(world: UsageWorld) -> None:
    """No more than so many names are read at once; the rest is counted."""
    for number in range(1, NAMES + 11):
        write_segment(world.client, {of_key("k1"): [1]}, number=number, minute=MINUTE + number)

    (queue,) = (await world.store.freeze()).queues

    assert (len(queue.names), queue.segments) == (NAMES, NAMES + 10)
    assert queue.names[0].startswith("1.")


async def test_what_is_open(world: UsageWorld) -> None:
    """The minute of a segment that is still open is reported, so that nothing claims to have its counts."""
    assert (await world.store.freeze()).open_minute is None
    now_us = time.time_ns() // 1_000
    minute = now_us // MINUTE_US
    world.client.hset("{u}:u:o", "", struct.pack("<9d", 1, now_us, minute, 100, 0, 0, 0, 0, 0))

    frozen = await world.store.freeze()

    assert frozen.open_minute == minute or [queue.segments for queue in frozen.queues] == [1]  # the minute has ended
    assert frozen.complete


async def test_a_cluster(redis_cluster: LoopbackCluster, world: UsageWorld) -> None:
    """The segments of all tags are moved, wherever their slots are."""
    tags = {partition: f"{{p{partition}}}" for partition in (0, 1, 7, 100, 255)}
    nodes = redis_cluster.clients
    for client in nodes:
        client.flushall()
    owners = {slot_of(partition) * len(nodes) // 16_384 for partition in tags}
    assert len(owners) > 1, "the tags are all on one node"
    for partition, tag in tags.items():
        client = nodes[slot_of(partition) * len(nodes) // 16_384]
        for number in (1, 2):
            write_segment(client, {of_key(f"k{partition}"): [number]}, number=number, tag=tag)

    async with UsageWorld(redis_cluster.url, world.database_url) as on_cluster:
        await on_cluster.flush_all()

    assert totals(world.database_url, "hour") == {f"k{partition}": (3, 0, 0, 0, 0) for partition in tags}
    assert losses(world.database_url) == []
    assert [key for client in nodes for key in client.keys("*:u:s:*")] == []


async def test_a_store_that_is_away(valkey: StartValkey) -> None:
    """Without the store a flush fails within its time, and goes on when the store is back, with what it has kept."""
    server = valkey()
    store = open_usage_store(server.url, usage_bytes=2**20, timeout=0.5)
    with redis.Redis.from_url(server.url) as client:
        write_segment(client, {of_rule("edge", "a"): [1]})
    assert len((await store.freeze()).queues) == 1
    port = server.port
    server.stop()
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(store.freeze(), 2)

    server._wanted_port = port
    server.start()

    async with asyncio.timeout(10):
        while True:
            try:
                queues = (await store.freeze()).queues
                break
            except StoreUnavailable:
                await asyncio.sleep(0.05)
    assert [queue.segments for queue in queues] == [1]
    await store.close()
