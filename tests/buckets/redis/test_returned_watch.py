"""What is returned to a bucket is heard by every worker, and one that does not hear it remembers nothing for long."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import pytest
import redis
from structlog.testing import capture_logs

from buckets.conftest import LoopbackCluster, MakeBucket, OpenStore, Store
from fixtures.valkey import StartValkey
from ratelimit_service.buckets.redis.connect import open_returned_watch
from ratelimit_service.buckets.redis.spanning import SpanningStore, Taken
from ratelimit_service.decision.charge import Bucket, Charge, Exhausted
from ratelimit_service.decision.denial_memory import DenialMemory
from ratelimit_service.decision.limit import MICRO, Limit, Quota, Window

TEN = Limit("ten", Quota(10, Window.YEAR))


class Worker:
    """A store, and what is remembered of its denials: as long as nothing is heard, if the clock is FROZEN."""

    def __init__(self, store: Store, *, frozen: bool = True) -> None:
        self.store = store
        self._ticks = iter(range(1, 1_000_000))
        self.memory = DenialMemory(lambda: next(self._ticks) * 1e-9) if frozen else DenialMemory()

    @asynccontextmanager
    async def listening(self, url: str) -> AsyncIterator["Worker"]:
        """Listen for as long as the block runs."""
        watch = open_returned_watch(url, self.memory)
        task = asyncio.ensure_future(watch.run())
        try:
            await until(lambda: self.memory.listening)
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await watch.close()

    async def exhaust(self, bucket: Bucket) -> Charge:
        """Use a bucket up, and remember that one more does not fit."""
        await self.store.charge([Charge((bucket,), (10,))])
        return await self.deny(bucket)

    async def deny(self, bucket: Bucket) -> Charge:
        """Remember that one more does not fit a bucket that is used up."""
        charge, sent = Charge((bucket,), (1,)), self.memory.now()
        (denied,) = await self.store.charge([charge])
        assert isinstance(denied, Exhausted)
        self.memory.remember(charge, denied, sent)
        assert self.memory.find(charge) is not None
        return charge


async def until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until HOLDS() is true."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        await asyncio.sleep(0.005)


async def test_it_hears_of_a_refund(valkey_url: str, open_store: OpenStore, bucket: MakeBucket) -> None:
    """Made by another worker; and of nothing else."""
    other = open_store(valkey_url)
    async with Worker(open_store(valkey_url)).listening(valkey_url) as worker:
        one = bucket(TEN)
        charge = await worker.exhaust(one)
        await other.charge([Charge((one,), (0,)), charge])
        assert worker.memory.find(charge) is not None
        await other.charge([Charge((one,), (-1,))])
        await until(lambda: worker.memory.find(charge) is None)


async def test_on_a_cluster(redis_cluster: LoopbackCluster, open_store: OpenStore, bucket: MakeBucket) -> None:
    """Whichever node has the bucket, and what is refunded of a charge of several slots as well."""
    other = open_store(redis_cluster.url)
    assert isinstance(other, SpanningStore)
    async with Worker(open_store(redis_cluster.url)).listening(redis_cluster.url) as worker:
        for partition in range(3):
            one = bucket(TEN, partition)
            charge = await worker.exhaust(one)
            await other.charge([Charge((one,), (-1,))])
            await until(lambda charge=charge: worker.memory.find(charge) is None)
            two, request = bucket(TEN, partition), uuid4().hex
            (made,) = await other.charge([Charge((two,), (10,), request)])
            charge = await worker.deny(two)
            await other._refund(request, [Taken(two, 10, made.limit_results[0])])
            await until(lambda charge=charge: worker.memory.find(charge) is None)


async def test_a_connection_that_is_lost(valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket) -> None:
    """Nobody knows what was published meanwhile: all is forgotten, and it listens again."""
    url = valkey().url
    async with Worker(open_store(url)).listening(url) as worker:
        charge = await worker.exhaust(bucket(TEN))
        with redis.Redis.from_url(url) as client:
            client.client_kill_filter(_type="pubsub")
        await until(lambda: worker.memory.find(charge) is None)
        await until(lambda: worker.memory.listening)
        await worker.deny(charge.buckets[0])


async def test_a_user_without_the_rights(valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket) -> None:
    """As one made for an earlier version: it remembers nothing, says so once, and all else goes on."""
    server = valkey()
    with redis.Redis.from_url(server.url) as client:
        rules = ("on", ">secret", "resetchannels", "~*", "+@all", "-subscribe", "-publish")
        client.execute_command("ACL", "SETUSER", "old", *rules)
    url = server.url.replace("redis://", "redis://old:secret@")
    store = open_store(url)
    memory = DenialMemory()
    watch = open_returned_watch(url, memory)
    with capture_logs() as lines:
        task = asyncio.ensure_future(watch.run())
        await until(lambda: bool(lines))
        one = bucket(TEN)
        await store.charge([Charge((one,), (3,))])
        (refunded,) = await store.charge([Charge((one,), (-1,))])
        await asyncio.sleep(0.3)
    assert refunded.limit_results[0].remaining == 8 * MICRO
    assert not memory.listening
    assert ["denials are not remembered" in line["event"] for line in lines] == [True]
    task.cancel()
    await watch.close()


@pytest.mark.parametrize("hears", [True, False])
async def test_how_long_a_call_is_denied_after_a_return(
    valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket, *, hears: bool
) -> None:
    """A second at most after the store last replied so, also if the message is lost; at once if not."""
    server = valkey()
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("ACL", "SETUSER", "mute", "on", ">secret", "allchannels", "~*", "+@all", "-publish")
    other = open_store(server.url if hears else server.url.replace("redis://", "redis://mute:secret@"))
    async with Worker(open_store(server.url), frozen=False).listening(server.url) as worker:
        one = bucket(TEN)
        asked = time.monotonic()
        charge = await worker.exhaust(one)
        await other.charge([Charge((one,), (-1,))])
        while worker.memory.find(charge) is not None:
            assert time.monotonic() < asked + 2
            await asyncio.sleep(0.001)
        assert hears or time.monotonic() >= asked + 0.99
        assert time.monotonic() < asked + 1.5
        assert (await worker.store.charge([charge]))[0].charged
