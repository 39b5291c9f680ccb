"""Masters that change, move and disappear: no error of theirs reaches a caller."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import pytest
import redis
from redis.crc import key_slot

from faults.lost_host import lost_host
from faults.sizes import FACTOR, FULL, REPORT
from fixtures.redis_cluster import LoopbackCluster, LoopbackSentinel, until
from fixtures.served import Server, free_address
from fixtures.valkey import StartValkey
from operations.probe import ask
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.buckets.breaker import SLOW, GuardedStore
from ratelimit_service.buckets.redis.connect import open_bucket_store
from ratelimit_service.buckets.redis.observers import UNOBSERVED
from ratelimit_service.buckets.redis.script import bucket_key
from ratelimit_service.buckets.redis.spanning import SpanningStore
from ratelimit_service.decision.charge import Bucket, Charge
from ratelimit_service.decision.limit import MICRO, Limit, Quota, Window
from ratelimit_service.decision.ports import StoreUnavailable

LARGE = Limit("large", Quota(10_000_000, Window.YEAR))
PARTITION = 5
SLOT = int(key_slot(b"{p5}"))


@asynccontextmanager
async def opened(
    url: str, seconds: float = 0.1, slow: float | None = None
) -> AsyncIterator[GuardedStore[None] | SpanningStore]:
    """The store at URL, with this timeout. By default replies may be slow: others use the cores."""
    slow = seconds if slow is None else slow
    store = open_bucket_store(
        url, timeout=seconds, request_window=60, usage_bytes=2**28, observers=UNOBSERVED, slow=slow
    )
    async with store:
        yield store


async def take(store: GuardedStore[None] | SpanningStore, bucket: Bucket, cost: int = 1) -> int:
    """Take COST tokens; returns how many have been taken in all."""
    (result,) = await store.charge((Charge((bucket,), (cost,)),), time.monotonic() + 30)
    return bucket.limit.capacity - result.limit_results[0].remaining // MICRO


async def test_all_sentinels_away(tmp_path: Path) -> None:
    """The last master that a Sentinel named is used, on a new connection too, while no Sentinel replies."""
    bucket = Bucket("calls", 0, LARGE)
    with LoopbackSentinel(tmp_path) as group, redis.Redis.from_url(group.master.url) as admin:
        async with opened(group.url) as store:
            assert await take(store, bucket) == 1
            for stop in (signal.SIGSTOP, signal.SIGKILL):
                os.kill(group.sentinel.pid, stop)
                await asyncio.to_thread(admin.client_kill_filter, _type="normal", skipme=True)
                await asyncio.sleep(0.05)
                began = time.monotonic()
                await take(store, bucket)
                assert time.monotonic() - began < 2
            assert await take(store, bucket, cost=0) == 3


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LoopbackCluster]:
    """A cluster of the test's own."""
    with LoopbackCluster(tmp_path) as started:
        yield started


def begin_move(cluster: LoopbackCluster, slot: int, source: int, target: int) -> None:
    """Begin to move a slot: its new keys are on the target from now on."""
    ids = [client.execute_command("CLUSTER MYID").decode() for client in cluster.clients]
    cluster.clients[target].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source])
    cluster.clients[source].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[target])


def end_move(cluster: LoopbackCluster, slot: int, source: int, target: int) -> None:
    """Move the keys of a slot, and the slot."""
    owner = cluster.clients[target].execute_command("CLUSTER MYID")
    port = cluster.nodes[target].port
    while keys := cluster.clients[source].execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
        cluster.clients[source].execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5_000, "KEYS", *keys)
    for number in (target, source, 3 - source - target):
        cluster.clients[number].execute_command("CLUSTER SETSLOT", slot, "NODE", owner)


async def test_a_slot_moves_to_a_node_without_the_script(cluster: LoopbackCluster) -> None:
    """While a slot moves to a node that does not know the script, calls whose buckets are there are decided there."""
    source = SLOT * 3 // 16_384
    target = (source + 1) % 3
    old, new = Bucket("old", PARTITION, LARGE), Bucket("new", PARTITION, LARGE)
    async with opened(cluster.url, seconds=5) as store:
        await take(store, old)
        cluster.clients[target].script_flush()
        begin_move(cluster, SLOT, source, target)
        assert await take(store, new) == 1
        await asyncio.to_thread(end_move, cluster, SLOT, source, target)
        assert (await take(store, old), await take(store, new)) == (2, 2)


async def test_a_slot_moves_to_a_node_without_memory(cluster: LoopbackCluster) -> None:
    """While a slot moves to a node whose memory is used up, calls whose buckets are there already are decided there."""
    source = SLOT * 3 // 16_384
    target = (source + 1) % 3
    bucket = Bucket("calls", PARTITION, LARGE)
    async with opened(cluster.url, seconds=5) as store:
        await take(store, bucket)
        begin_move(cluster, SLOT, source, target)
        port, key = cluster.nodes[target].port, bucket_key(bucket)
        cluster.clients[source].execute_command("MIGRATE", "127.0.0.1", port, key, 0, 5_000)
        await take(store, bucket)
        cluster.clients[target].config_set("maxmemory", 1)
        assert await take(store, bucket) == 3
        cluster.clients[target].config_set("maxmemory", 0)
        await asyncio.to_thread(end_move, cluster, SLOT, source, target)
        assert await take(store, bucket) == 4


CUT_OFF_SECONDS = 3.0
"""After which a master without its replica no longer decides: it counts them once a second, by whole seconds."""


async def test_a_master_that_is_cut_off_stops_deciding(valkey: StartValkey) -> None:
    """With min-replicas-to-write a master whose replica is silent decides nothing any more, and soon after again."""
    master = valkey(**{"min-replicas-to-write": "1", "min-replicas-max-lag": "1", "repl-diskless-sync-delay": "0"})
    replica, bucket = valkey(), Bucket("calls", 0, LARGE)
    with redis.Redis.from_url(replica.url) as client:
        client.replicaof("127.0.0.1", str(master.port))
    with redis.Redis.from_url(master.url) as client:
        until(lambda: client.info("replication")["min_slaves_good_slaves"] == 1, "the replica to be in sync")
    async with opened(master.url) as store:
        await take(store, bucket)
        waits = []
        for _ in range(5 if FULL else 2):
            os.kill(replica.pid, signal.SIGSTOP)
            waits.append(await first(store, bucket, decided=False))
            assert store.breaker_open or not await decides(store, bucket)
            os.kill(replica.pid, signal.SIGCONT)
            await first(store, bucket, decided=True)
    REPORT.append(f"a master that was cut off decided for {max(waits):.2f} s at most")
    assert max(waits) <= CUT_OFF_SECONDS * FACTOR


async def decides(store: GuardedStore[None] | SpanningStore, bucket: Bucket) -> bool:
    """Whether the store decides a call now."""
    try:
        await take(store, bucket)
    except StoreUnavailable:
        return False
    return True


async def first(store: GuardedStore[None] | SpanningStore, bucket: Bucket, *, decided: bool) -> float:
    """The seconds until a call is decided, or is not."""
    began = time.monotonic()
    while await decides(store, bucket) != decided:
        assert time.monotonic() < began + 30
        await asyncio.sleep(0.01)
    return time.monotonic() - began


FORBIDDEN = ("READONLY", "MOVED", "ASK ", "NOSCRIPT", "TRYAGAIN", "MASTERDOWN")


class Load:
    """Callers in a closed loop on some buckets: how many tokens were taken of each, and the errors."""

    def __init__(self, store: GuardedStore[None] | SpanningStore, buckets: Sequence[Bucket]) -> None:
        self.taken = [0] * len(buckets)
        self.errors: list[StoreUnavailable] = []
        self._store = store
        self._buckets = buckets
        self._ended = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.ensure_future(self._call(number)) for number in range(len(self._buckets))]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended = True
        await asyncio.gather(*self._tasks)

    async def _call(self, number: int) -> None:
        while not self._ended:
            try:
                await self._store.charge((Charge((self._buckets[number],), (1,)),), time.monotonic() + 1)
                self.taken[number] += 1
            except StoreUnavailable as error:
                self.errors.append(error)
                await asyncio.sleep(0.005)


async def test_a_thousand_slots_move_under_load(cluster: LoopbackCluster) -> None:
    """Calls are decided on whatever node their slot is, each once, and none fails."""
    by_node = [[p for p in range(256) if int(key_slot(b"{p%d}" % p)) * 3 // 16_384 == node] for node in range(3)]
    partitions = sorted(by_node[0], key=lambda partition: int(key_slot(b"{p%d}" % partition)))[:8]
    first_slot = int(key_slot(b"{p%d}" % partitions[0]))
    buckets = [Bucket(f"calls {partition}", partition, LARGE) for partition in partitions]
    async with opened(cluster.url, seconds=1) as store:
        for bucket in buckets:
            await take(store, bucket, cost=0)
        async with Load(store, buckets) as load:
            await asyncio.to_thread(move_slots, cluster, range(first_slot, first_slot + (1_000 if FULL else 300)))
        assert [str(error) for error in load.errors] == []
        assert [await take(store, bucket, cost=0) for bucket in buckets] == load.taken
    assert min(load.taken) > 10


def move_slots(cluster: LoopbackCluster, slots: range) -> None:
    """Move slots of the first node to the second, with their keys."""
    for slot in slots:
        begin_move(cluster, slot, 0, 1)
        end_move(cluster, slot, 0, 1)


async def test_a_master_is_killed(tmp_path: Path) -> None:
    """Until its replica has taken over calls find the store unavailable, and see no error of either server."""
    bucket = Bucket("calls", 0, LARGE)
    with LoopbackSentinel(tmp_path) as group, redis.Redis.from_url(group.master.url) as admin:
        async with opened(group.url) as store:
            await take(store, bucket, cost=1_000)
            assert admin.wait(1, 5_000) == 1
            async with Load(store, [bucket] * 4) as load:
                await asyncio.sleep(0.5)
                os.kill(group.master.pid, signal.SIGKILL)
                await asyncio.sleep(0.2)
                before = sum(load.taken)
                began = time.monotonic()
                while sum(load.taken) == before:
                    assert time.monotonic() < began + 30
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.5)
            assert [str(error) for error in load.errors if any(word in str(error) for word in FORBIDDEN)] == []
            # What the old master had not replicated is lost; what failed may have been charged.
            assert 1_000 < await take(store, bucket, cost=0) <= 1_000 + sum(load.taken) + len(load.errors)


async def test_a_master_of_a_cluster_is_killed(tmp_path: Path) -> None:
    """Its replica takes over: meanwhile calls of its slots find the store unavailable, those of other nodes nothing."""
    by_node = [[p for p in range(256) if int(key_slot(b"{p%d}" % p)) * 3 // 16_384 == node] for node in range(3)]
    buckets = [Bucket(f"calls {partitions[0]}", partitions[0], LARGE) for partitions in by_node]
    with LoopbackCluster(tmp_path, replicas=1) as cluster:
        async with opened(cluster.url, seconds=1) as store:
            for bucket in buckets:
                await take(store, bucket, cost=1_000)
            assert cluster.clients[0].wait(1, 5_000) == 1
            load, others = Load(store, buckets[:1] * 4), Load(store, buckets[1:])
            async with load, others:
                await asyncio.sleep(0.5)
                began = time.monotonic()
                os.kill(cluster.nodes[0].pid, signal.SIGKILL)
                await asyncio.sleep(0.2)
                before = sum(load.taken)
                while sum(load.taken) == before:
                    assert time.monotonic() < began + 60
                    await asyncio.sleep(0.01)
                took = time.monotonic() - began
                await asyncio.sleep(0.5)
            REPORT.append(f"a master of a cluster was killed: its slots were decided again after {took:.1f} s")
            errors = [str(error) for error in (*load.errors, *others.errors)]
            assert [error for error in errors if any(word in error for word in FORBIDDEN)] == []
            assert [str(error) for error in others.errors] == []
            # What the old master had not replicated is lost; what failed may have been charged.
            assert 1_000 < await take(store, buckets[0], cost=0) <= 1_000 + sum(load.taken) + len(load.errors)


LOST_SECONDS = 5.0
"""After which the slots of a host that is lost are decided again, once a replica has taken them over."""


async def test_the_host_of_a_master_is_lost(tmp_path: Path) -> None:
    """Nothing says that its port is closed, and calls give up first: its slots are decided soon after the failover.

    No breaker stays open: neither its own, though it never replies again, nor another one.
    """
    partition = next(number for number in range(256) if int(key_slot(b"{p%d}" % number)) < 16_384 // 3)
    bucket = Bucket("calls", partition, LARGE)
    with LoopbackCluster(tmp_path, replicas=1) as cluster:
        async with opened(cluster.url, slow=SLOW) as store:
            await first(store, bucket, decided=True)
            async with Load(store, [bucket] * 4) as load:
                await asyncio.sleep(0.2)
                os.kill(cluster.nodes[0].pid, signal.SIGKILL)
                with lost_host(cluster.nodes[0].port):
                    replica = cluster.clients[-1]
                    await asyncio.to_thread(until, lambda: replica.role()[0] == b"master", "the replica to take over")
                    before, began = sum(load.taken), time.monotonic()
                    while sum(load.taken) < before + 10 or store.breaker_open:
                        assert time.monotonic() < began + LOST_SECONDS * FACTOR
                        await asyncio.sleep(0.01)
                    took = time.monotonic() - began
            REPORT.append(f"the host of a master was lost: {took:.1f} s after the failover its slots were decided")
            assert [str(error) for error in load.errors if any(word in str(error) for word in FORBIDDEN)] == []


def test_a_server_is_ready_again_after_a_failover(own_server: Callable[..., Server], tmp_path: Path) -> None:
    """/readyz says that a breaker is open while the slots of a lost host are nobody's, and nothing of it afterwards."""
    with LoopbackCluster(tmp_path, replicas=1) as cluster:
        address = free_address()
        server = own_server(
            "grpcio", redis_url=cluster.url, operations_listen=address, store_timeout=0.1, store_slow=SLOW
        )
        keys = [server.key("wide")[1] for _ in range(12)]
        stub = RateLimitServiceStub(server.channel)

        def sources() -> set["CheckLimitResponse.Source"]:
            requests = [CheckLimitRequest(api_key=key, resource="r") for key in keys]
            return {stub.CheckLimit(request, timeout=5).source for request in requests}

        until(lambda: sources() == {CheckLimitResponse.STORE}, "all nodes to decide")
        os.kill(cluster.nodes[0].pid, signal.SIGKILL)
        with lost_host(cluster.nodes[0].port):
            until(lambda: bool(sources()) and "circuit breaker" in ask(address, "/readyz").text, "the breaker to open")
            until(lambda: sources() == {CheckLimitResponse.STORE}, "the replica to decide")
            until(lambda: ask(address, "/readyz").text == "ready\n", "the server to be ready")
        server.close()
