"""What callers get while a server flushes its scripts, restarts, hangs, moves slots, or fails over."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
import redis.asyncio
from redis.crc import key_slot

from buckets.conftest import MakeBucket, OpenStore
from faults.proxy import FaultProxy
from fixtures.redis_cluster import LoopbackCluster, LoopbackSentinel, free_port
from fixtures.redis_cluster import until as until_true
from fixtures.valkey import StartValkey
from ratelimit_service.buckets.breaker import GuardedStore
from ratelimit_service.buckets.redis import batcher
from ratelimit_service.buckets.redis.connect import open_bucket_store
from ratelimit_service.buckets.redis.observers import UNOBSERVED
from ratelimit_service.buckets.redis.script import bucket_key
from ratelimit_service.decision.charge import Bucket, Charge, ChargeResult, Counted
from ratelimit_service.decision.limit import MICRO, Limit, Quota, Window
from ratelimit_service.decision.ports import BucketStore, PartlyUnavailable, QueueTimeout, StoreUnavailable
from ratelimit_service.decision.usage import Series
from ratelimit_service.devstores.valkey import EmbeddedValkey
from ratelimit_service.metrics import RoundTripCounts

LARGE = Limit("large", Quota(1_000_000, Window.YEAR))


async def take(store: BucketStore, bucket: Bucket, cost: int = 1) -> int:
    """Take COST tokens; returns how many have been taken in all."""
    (result,) = await store.charge((Charge((bucket,), (cost,)),))
    assert result.charged
    return bucket.limit.capacity - result.limit_results[0].remaining // MICRO


async def until(holds: Callable[[], bool]) -> None:
    """Run the loop until HOLDS()."""
    while not holds():  # noqa: ASYNC110  what is waited for has no event
        await asyncio.sleep(0)


async def test_a_script_flush_fails_no_call(valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket) -> None:
    """While the scripts are flushed again and again, every call succeeds and is charged exactly once."""
    server = valkey()
    store, large = open_store(server.url), bucket(LARGE)

    async def load() -> int:
        for _ in range(500):
            await take(store, large)
        return 500

    async with redis.asyncio.Redis.from_url(server.url) as client:
        callers = asyncio.gather(*[load() for _ in range(8)])
        while not callers.done():
            await client.script_flush()
            await asyncio.sleep(0.002)
    assert await take(store, large, cost=0) == sum(await callers) == 4_000


async def test_a_restart_fails_calls_only_while_it_lasts(
    tmp_path: Path, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """While a server is down calls fail fast with its address; once it is back, its buckets are as before."""
    server = EmbeddedValkey(tmp_path, free_port())
    server.start()
    store, large = open_store(server.url), bucket(LARGE)
    await take(store, large, cost=7)
    server.stop()
    begin = time.monotonic()
    with pytest.raises(StoreUnavailable, match=f"Redis at 127.0.0.1:{server.port}"):
        await take(store, large)
    assert time.monotonic() - begin < 1
    server.start()
    taken = await take(store, large)
    server.stop()
    assert taken == 8


async def test_an_idle_connection_that_was_closed_is_reopened(
    valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """A connection that the server closed between two calls fails no call."""
    server = valkey()
    store, large = open_store(server.url), bucket(LARGE)
    await take(store, large)
    async with redis.asyncio.Redis.from_url(server.url) as client:
        await client.execute_command("CLIENT KILL", "TYPE", "normal", "SKIPME", "yes")
    await asyncio.sleep(0.2)
    assert await take(store, large) == 2


async def test_a_call_with_a_lost_reply_is_not_sent_again(
    valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """When the connection breaks in place of a reply, the call fails, charged once, and the next one succeeds."""
    with FaultProxy(valkey().port) as proxy:
        store, large = open_store(proxy.url), bucket(LARGE)
        await take(store, large)
        proxy.lose_next_reply()
        with pytest.raises(StoreUnavailable, match="lost"):
            await take(store, large)
        assert await take(store, large, cost=0) == 2
        assert proxy.connections == 2
        await store.close()


async def test_calls_to_a_hung_server_time_out(valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket) -> None:
    """While a server hangs each call fails within the timeout, those in the queue too, from their submission on."""
    server = valkey()
    store, large = open_store(server.url, timeout=1), bucket(LARGE)
    await take(store, large)
    os.kill(server.pid, signal.SIGSTOP)

    async def how_long() -> float:
        begin = time.monotonic()
        with pytest.raises(StoreUnavailable, match="within 1 s"):
            await take(store, large)
        return time.monotonic() - begin

    async def late(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return await how_long()

    waits = await asyncio.gather(how_long(), late(0.2), late(0.9), late(0.95))
    os.kill(server.pid, signal.SIGCONT)
    assert max(waits) < 1.5


async def test_the_first_call_to_a_hung_server(valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket) -> None:
    """A server that hangs from the first call on, which opens the connection, is reported as one that hangs."""
    server = valkey()
    store, large = open_store(server.url, timeout=0.3), bucket(LARGE)
    os.kill(server.pid, signal.SIGSTOP)
    with pytest.raises(StoreUnavailable, match=r"did not reply within 0\.3 s"):
        await take(store, large)
    os.kill(server.pid, signal.SIGCONT)
    await take(store, large)


async def test_closing_fails_the_calls_in_progress(
    valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """When a store is closed, the call that waits for its reply fails at once, and one in the queue too."""
    server = valkey()
    store, large = open_store(server.url, timeout=60), bucket(LARGE)
    await take(store, large)
    os.kill(server.pid, signal.SIGSTOP)
    calls = [asyncio.ensure_future(take(store, large))]
    await until(lambda: store._batcher._in_flight is not None)
    calls.append(asyncio.ensure_future(take(store, large)))
    await until(lambda: bool(store._batcher._queue))
    await store.close()
    _, pending = await asyncio.wait(calls, timeout=1)
    os.kill(server.pid, signal.SIGCONT)
    assert not pending
    for call in calls:
        with pytest.raises(StoreUnavailable, match="closed"):
            await call


async def test_failed_round_trips_are_counted(valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket) -> None:
    """A script run with a lost reply, and one that hangs, are one failed round trip each, and no other is."""
    server, round_trips = valkey(), RoundTripCounts()
    with FaultProxy(server.port) as proxy:
        store, large = open_store(proxy.url, timeout=1, observer=round_trips), bucket(LARGE)
        await take(store, large)
        assert round_trips.failures == 0
        proxy.lose_next_reply()
        with pytest.raises(StoreUnavailable, match="lost"):
            await take(store, large)
        assert round_trips.failures == 1
        await take(store, large)
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(StoreUnavailable, match="did not reply within 1 s"):
            await take(store, large)
        await until(lambda: round_trips.failures == 2)  # the run is given up a moment after its calls
        os.kill(server.pid, signal.SIGCONT)
        await take(store, large)
        assert round_trips.failures == 2
        await store.close()


async def test_all_round_trips_are_timed(valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket) -> None:
    """While a breaker is open there are but probes and what is given up: their times are counted, too."""
    server, round_trips = valkey(), RoundTripCounts()
    store, small = open_store(server.url, timeout=0.3, observer=round_trips), bucket(LARGE)
    await take(store, small)
    assert sum(round_trips.seconds.counts) == 1
    await store.ping()
    assert (sum(round_trips.seconds.counts), sum(round_trips.sizes.counts)) == (2, 1)
    os.kill(server.pid, signal.SIGSTOP)
    with pytest.raises(StoreUnavailable):
        await store.ping()
    await until(lambda: sum(round_trips.seconds.counts) == 3)
    assert round_trips.seconds.total >= 0.28
    os.kill(server.pid, signal.SIGCONT)
    await store.close()


async def test_the_breaker_opens_and_closes_in_time(
    valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """From 250 ms into a hang calls fail at once, and at most 2 s after its end they succeed again."""
    server = valkey()
    async with GuardedStore(open_store(server.url, timeout=0.1)) as store:
        large = bucket(LARGE)
        await take(store, large)
        os.kill(server.pid, signal.SIGSTOP)
        begin = time.monotonic()
        while not store.breaker_open:
            with pytest.raises(StoreUnavailable):
                await take(store, large)
        opened = time.monotonic() - begin
        begin = time.monotonic()
        for _ in range(100):
            with pytest.raises(StoreUnavailable, match="circuit breaker open"):
                await take(store, large)
        refused = time.monotonic() - begin
        os.kill(server.pid, signal.SIGCONT)
        begin = time.monotonic()
        await until(lambda: not store.breaker_open)
        closed = time.monotonic() - begin
        await take(store, large)
    assert opened < 0.25
    assert refused < 0.1
    assert closed < 2


async def test_one_failure_does_not_open_the_breaker(
    valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """A single lost connection fails its call and no other."""
    with FaultProxy(valkey().port) as proxy:
        async with GuardedStore(open_store(proxy.url)) as store:
            large = bucket(LARGE)
            await take(store, large)
            proxy.lose_next_reply()
            with pytest.raises(StoreUnavailable):
                await take(store, large)
            assert not store.breaker_open
            assert await take(store, large) == 3


async def test_failures_with_a_success_between_them_do_not_open_the_breaker(
    valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """Only consecutive failures count: after a call that succeeded, the next one is the first again."""
    with FaultProxy(valkey().port) as proxy:
        async with GuardedStore(open_store(proxy.url)) as store:
            large = bucket(LARGE)
            for _ in range(3):
                await take(store, large)
                proxy.lose_next_reply()
                with pytest.raises(StoreUnavailable):
                    await take(store, large)
                assert not store.breaker_open


async def test_a_reply_is_read_after_the_loop_was_blocked(
    valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """A reply that came in time but could not be read in time is still used, since its cost was charged."""
    store, large = open_store(valkey().url, timeout=0.2), bucket(LARGE)
    await take(store, large)
    call = asyncio.ensure_future(take(store, large))
    await until(lambda: store._batcher._in_flight is not None)
    time.sleep(0.4)  # noqa: ASYNC251  blocks the loop on purpose
    assert await call == 2


@pytest.mark.parametrize("buckets", [1, 512], ids=["small", "large"])
async def test_a_missing_reply_shows_that_a_server_is_away_unless_it_is_to_a_large_charge(
    valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket, buckets: int
) -> None:
    """Two small charges that are answered too late open the breaker, and two large ones do not."""
    server, round_trips = valkey(), RoundTripCounts()
    charge = Charge(tuple(bucket(LARGE) for _ in range(buckets)), (1,) * buckets)
    async with GuardedStore(open_store(server.url, timeout=0.05, observer=round_trips), slow=5) as store:
        await store.ping()
        for failures in (1, 2):
            os.kill(server.pid, signal.SIGSTOP)
            with pytest.raises(StoreUnavailable) as raised:
                await store.charge((charge,))
            assert raised.value.sent
            await until(lambda: round_trips.failures == failures)  # noqa: B023  it is called at once
            assert store.breaker_open == (buckets == 1 and failures == 2)
            os.kill(server.pid, signal.SIGCONT)
            await asyncio.sleep(0 if buckets == 1 else 0.1)


@pytest.mark.parametrize("large", [1, 65], ids=["small", "one-large"])
async def test_the_breaker_opens_under_load(
    valkey: StartValkey,
    open_store: OpenStore,
    bucket: MakeBucket,
    monkeypatch: pytest.MonkeyPatch,
    large: int,
) -> None:
    """Within a second, though each batch is late when it is sent, and though one caller has 65 buckets in each."""
    monkeypatch.setattr(batcher, "MAX_CHARGES", 8 if large == 1 else 256)  # so that a small load is too much
    server = valkey()
    async with GuardedStore(open_store(server.url, timeout=0.1)) as store:
        one, many = bucket(LARGE), Charge(tuple(bucket(LARGE) for _ in range(large)), (1,) * large)
        calls: set[asyncio.Task[object]] = set()

        def call(charge: Charge) -> None:
            task: asyncio.Task[object] = asyncio.ensure_future(store.charge((charge,)))
            calls.add(task)
            task.add_done_callback(lambda done: (calls.discard(task), done.exception()))

        async def load(until: float) -> None:
            sent, begin = 0, time.monotonic()
            while (now := time.monotonic()) < until and not store.breaker_open:
                while sent < (now - begin) * 1_000:
                    call(many if sent % 20 == 0 else Charge((one,), (1,)))
                    sent += 1
                await asyncio.sleep(0.001)

        await store.ping()
        # From here on all that is sent finds the queue full of what is late already.
        first = Charge(tuple(bucket(LARGE) for _ in range(65)), (1,) * 65)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            call(first)
            await until(lambda: store._store._batcher._in_flight is not None)  # type: ignore[attr-defined]
            begin = time.monotonic()
            await load(begin + 2)
            opened = time.monotonic() - begin
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert opened < 1
        await until(lambda: not store.breaker_open)
        await asyncio.gather(*calls, return_exceptions=True)
        await store.charge((many,))


@pytest.mark.parametrize("counted", [False, True])
async def test_large_charges_that_are_answered_late_open_no_breaker(
    valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket, counted: bool
) -> None:
    """One that takes Redis too long, again and again, shows that it is slow: the reply to each comes in the end."""
    server = valkey()
    async with GuardedStore(open_store(server.url, timeout=0.1)) as store:
        series = (Counted(Series.of_key("k", "r", "s", "p", ["limit"]), 1),) if counted else ()
        large = Charge(tuple(bucket(LARGE) for _ in range(65)), (1,) * 65, "", series)
        await store.charge((large,))
        for _ in range(6):
            os.kill(server.pid, signal.SIGSTOP)
            with pytest.raises(StoreUnavailable) as error:
                await store.charge((large,))
            assert error.value.sent
            os.kill(server.pid, signal.SIGCONT)
            await asyncio.sleep(0.05)
        assert not store.breaker_open
        await store.charge((large,))


async def test_a_call_that_times_out_in_the_queue_is_not_charged(
    valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """A call that was queued until its timeout fails, though the server replies: which is no failure of the server."""
    store, large = open_store(valkey().url, timeout=0.2), bucket(LARGE)
    await take(store, large)
    first = asyncio.ensure_future(take(store, large))
    await until(lambda: store._batcher._in_flight is not None)
    second = asyncio.ensure_future(take(store, large))
    await until(lambda: bool(store._batcher._queue))
    time.sleep(0.4)  # noqa: ASYNC251  blocks the loop on purpose
    assert await first == 2
    with pytest.raises(QueueTimeout, match=r"timed out after 0\.2 s in the queue") as raised:
        await second
    assert not raised.value.deadline
    assert await take(store, large, cost=0) == 2


async def test_a_call_whose_deadline_passes_in_the_queue_is_not_charged(
    valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """Nor is one that its caller no longer waits for, and the others in the queue are."""
    store, large = open_store(valkey().url, timeout=1), bucket(LARGE)
    await take(store, large)
    first = asyncio.ensure_future(take(store, large))
    await until(lambda: store._batcher._in_flight is not None)
    charges = (Charge((large,), (1,)),)
    late = asyncio.ensure_future(store.charge(charges, time.monotonic() + 0.05))
    patient = asyncio.ensure_future(store.charge(charges, time.monotonic() + 10))
    await until(lambda: len(store._batcher._queue) == 2)
    time.sleep(0.2)  # noqa: ASYNC251  blocks the loop on purpose
    assert await first == 2
    with pytest.raises(QueueTimeout) as raised:
        await late
    assert raised.value.deadline
    await patient
    assert await take(store, large, cost=0) == 3


async def test_calls_queued_behind_a_hung_server_find_it_unavailable(
    valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """A call that timed out in the queue because the call before it got no reply is a failure of the store."""
    server = valkey()
    store, large = open_store(server.url, timeout=0.2), bucket(LARGE)
    await take(store, large)
    os.kill(server.pid, signal.SIGSTOP)
    first = asyncio.ensure_future(take(store, large))
    await until(lambda: store._batcher._in_flight is not None)
    second = asyncio.ensure_future(take(store, large))
    await asyncio.sleep(0)
    errors = await asyncio.gather(first, second, return_exceptions=True)
    os.kill(server.pid, signal.SIGCONT)
    assert [type(error) for error in errors].count(QueueTimeout) == 0
    assert all(isinstance(error, StoreUnavailable) for error in errors)


async def test_a_call_cancelled_in_the_queue_is_not_charged(
    valkey_url: str, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """A call that is cancelled before it is sent is not charged."""
    store, large = open_store(valkey_url), bucket(LARGE)
    await take(store, large)
    first = asyncio.ensure_future(take(store, large))
    second = asyncio.ensure_future(take(store, large))
    await asyncio.sleep(0)
    second.cancel()
    assert await first == 2
    assert await take(store, large, cost=0) == 2


async def test_a_charge_that_cannot_be_sent_fails_alone(
    valkey_url: str, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """A charge that breaks its contract fails with the reason, and the calls after it succeed."""
    store, large = open_store(valkey_url), bucket(LARGE)
    for broken in (Charge((large,), ()), Charge((large,), (2**63,)), Charge((large,), (1,), "\ud800")):
        with pytest.raises(StoreUnavailable, match="cannot be sent"):
            await store.charge((broken,))
    assert await take(store, large) == 1


async def test_calls_of_one_iteration_are_one_script(
    valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """A hundred concurrent calls take one script run, and those submitted while it is in flight one more."""
    server = valkey()
    store, large = open_store(server.url), bucket(LARGE)
    await take(store, large)
    async with redis.asyncio.Redis.from_url(server.url) as client:
        await client.config_resetstat()
        first = [asyncio.ensure_future(take(store, large)) for _ in range(100)]
        await until(lambda: store._batcher._in_flight is not None)
        second = [asyncio.ensure_future(take(store, large)) for _ in range(100)]
        await asyncio.gather(*first, *second)
        assert (await client.info("commandstats"))["cmdstat_evalsha"]["calls"] == 2


async def test_a_replica_decides_nothing(valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket) -> None:
    """A server that became a replica decides nothing, not even a denial; the call succeeds once it is the master."""
    master, server = valkey(), valkey()
    store, large = open_store(server.url, timeout=10), bucket(LARGE)
    await take(store, large)
    async with redis.asyncio.Redis.from_url(server.url) as client:
        await client.replicaof("127.0.0.1", str(master.port))
        call = asyncio.ensure_future(take(store, large, cost=0))
        _, pending = await asyncio.wait([call], timeout=0.3)
        assert pending
        await client.replicaof("NO", "ONE")
        await call


async def test_a_call_that_failed_is_not_sent_later(
    valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """A call that timed out while its server was a replica is not charged once the server is the master again."""
    master, server = valkey(), valkey()
    store, large = open_store(server.url, timeout=0.3), bucket(LARGE)
    await take(store, large)
    async with redis.asyncio.Redis.from_url(server.url) as client:
        await client.replicaof("127.0.0.1", str(master.port))
        with pytest.raises(StoreUnavailable):
            await take(store, large, cost=100)
        await client.replicaof("NO", "ONE")
        await asyncio.sleep(0.1)
        # 0 if the data of the other server, which is empty, has arrived already.
        assert await take(store, large, cost=0) in (0, 1)


async def test_an_address_that_leads_to_another_server(
    valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """When the server becomes a replica and its address leads to the new master, the next call goes there."""
    master, server = valkey(), valkey()
    with FaultProxy(server.port) as proxy:
        store, large = open_store(proxy.url), bucket(LARGE)
        await take(store, large, cost=7)
        async with redis.asyncio.Redis.from_url(server.url) as client:
            await client.replicaof("127.0.0.1", str(master.port))
        proxy.target_port = master.port
        assert await take(store, large) == 1
        await store.close()


async def test_a_wrong_password_is_not_in_the_error(
    valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """The error for a failed authentication does not contain the password; the right password works."""
    server = valkey(requirepass="correct-horse")
    wrong = open_store(f"redis://:battery-staple@127.0.0.1:{server.port}/0")
    with pytest.raises(StoreUnavailable, match="rejected the credentials") as raised:
        await take(wrong, bucket(LARGE))
    assert "battery-staple" not in str(raised.value)
    right = open_store(f"redis://:correct-horse@127.0.0.1:{server.port}/3")
    assert await take(right, bucket(LARGE)) == 1


async def test_a_unix_socket(valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket, tmp_path: Path) -> None:
    """A server is reached by its unix socket."""
    valkey(unixsocket=str(tmp_path / "socket"))
    assert await take(open_store(f"unix://{tmp_path}/socket"), bucket(LARGE)) == 1


async def test_slots_move_under_load(redis_cluster: LoopbackCluster, open_store: OpenStore, bucket: MakeBucket) -> None:
    """While the slot of a bucket moves to another node and back no call fails, and each is charged once."""
    store, large = open_store(redis_cluster.url, timeout=10), bucket(LARGE, partition=5)
    slot = key_slot(b"{p5}")
    stop = asyncio.Event()

    async def load() -> int:
        done = 0
        while not stop.is_set():
            await take(store, large)
            done += 1
        return done

    callers = asyncio.gather(*[load() for _ in range(4)])
    await asyncio.sleep(0.1)
    source = slot * 3 // 16_384
    target = (source + 1) % 3
    await asyncio.to_thread(_move, redis_cluster, slot, source, target)
    await asyncio.sleep(0.1)
    await asyncio.to_thread(_move, redis_cluster, slot, target, source)
    await asyncio.sleep(0.1)
    stop.set()
    done = sum(await callers)
    assert done > 50
    assert await take(store, large, cost=0) == done


async def test_buckets_on_both_sides_of_a_move(
    redis_cluster: LoopbackCluster, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """A charge of two buckets of a slot waits while one of them has moved to another node and the other has not."""
    store, buckets = open_store(redis_cluster.url, timeout=10), tuple(bucket(LARGE, partition=5) for _ in range(2))
    for each in buckets:
        await take(store, each)
    slot = key_slot(b"{p5}")
    source = slot * 3 // 16_384
    target = (source + 1) % 3
    _begin_move(redis_cluster, slot, source, target)
    port = redis_cluster.nodes[target].port
    redis_cluster.clients[source].execute_command("MIGRATE", "127.0.0.1", port, bucket_key(buckets[0]), 0, 5_000)
    call = asyncio.ensure_future(store.charge((Charge(buckets, (1, 1)),)))
    _, pending = await asyncio.wait([call], timeout=0.3)
    await asyncio.to_thread(_move, redis_cluster, slot, source, target)
    (result,) = await call
    await asyncio.to_thread(_move, redis_cluster, slot, target, source)
    assert pending
    assert result.charged
    assert [await take(store, each, cost=0) for each in buckets] == [2, 2]


async def test_a_ping_reaches_every_node(redis_cluster: LoopbackCluster, open_store: OpenStore) -> None:
    """A ping fails while any one of the nodes hangs."""
    store = open_store(redis_cluster.url, timeout=0.3)
    await store.ping()
    for node in redis_cluster.nodes:
        await store.ping()
        os.kill(node.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailable, match=str(node.port)):
                await store.ping()
        finally:
            os.kill(node.pid, signal.SIGCONT)


def _begin_move(cluster: LoopbackCluster, slot: int, source: int, target: int) -> None:
    """Begin to move a slot, as `CLUSTER SETSLOT` documents it: its keys are on both nodes from now on."""
    clients = cluster.clients
    ids = [client.execute_command("CLUSTER MYID").decode() for client in clients]
    clients[target].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source])
    clients[source].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[target])


def _move(cluster: LoopbackCluster, slot: int, source: int, target: int) -> None:
    """Move a slot and its keys."""
    clients, nodes = cluster.clients, cluster.nodes
    _begin_move(cluster, slot, source, target)
    time.sleep(0.05)
    owner = clients[target].execute_command("CLUSTER MYID")
    while keys := clients[source].execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
        clients[source].execute_command("MIGRATE", "127.0.0.1", nodes[target].port, "", 0, 5_000, "KEYS", *keys)
        time.sleep(0.05)
    for number in (target, source, 3 - source - target):
        clients[number].execute_command("CLUSTER SETSLOT", slot, "NODE", owner)


async def test_a_planned_failover_by_sentinel(tmp_path: Path, open_store: OpenStore, bucket: MakeBucket) -> None:
    """When the master hands over to its replica under load, each call that succeeded was charged exactly once."""
    with LoopbackSentinel(tmp_path) as group:
        store, large = open_store(group.url, timeout=5), bucket(LARGE)
        await take(store, large, cost=7)
        await asyncio.to_thread(_wait_for_replica, group.master.url)
        await asyncio.to_thread(_hand_over, group.sentinel.port)
        succeeded = failed = 0
        deadline = time.monotonic() + 30
        while (used := store._route.connection()) is None or used.address.port != group.replica.port:  # type: ignore[union-attr]
            assert time.monotonic() < deadline
            try:
                await take(store, large)
                succeeded += 1
            except StoreUnavailable:
                failed += 1
            await asyncio.sleep(0.01)
        # Charges that the old master had not replicated are lost with it.
        assert 7 <= await take(store, large, cost=0) <= 7 + succeeded + failed


async def test_a_failover_by_sentinel(tmp_path: Path, open_store: OpenStore, bucket: MakeBucket) -> None:
    """After the master is killed, calls go to the new master, which has the state of the buckets."""
    with LoopbackSentinel(tmp_path) as group:
        store, large = open_store(group.url, timeout=1), bucket(LARGE)
        await take(store, large, cost=7)
        await asyncio.to_thread(_wait_for_replica, group.master.url)
        os.kill(group.master.pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while True:
            try:
                taken = await take(store, large)
                break
            except StoreUnavailable:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
        assert taken == 8
        assert store._route.connection().address.port == group.replica.port  # type: ignore[union-attr]


async def test_a_master_that_is_a_replica_for_a_moment(
    tmp_path: Path, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """A call waits while the server that the Sentinel reports is no master, and succeeds once it is one again."""
    with LoopbackSentinel(tmp_path) as group:
        store, large = open_store(group.url, timeout=10), bucket(LARGE)
        await take(store, large)
        async with redis.asyncio.Redis.from_url(group.master.url) as client:
            await client.replicaof("127.0.0.1", str(group.replica.port))
            call = asyncio.ensure_future(take(store, large))
            _, pending = await asyncio.wait([call], timeout=0.3)
            await client.replicaof("NO", "ONE")
            assert pending
            await call


def _hand_over(sentinel_port: int) -> None:
    """Start the failover, once the Sentinel knows enough of the replica to allow it."""

    def started() -> bool:
        try:
            return bool(sentinel.execute_command("SENTINEL FAILOVER", "buckets"))
        except redis.ResponseError:
            return False

    with redis.Redis(port=sentinel_port) as sentinel:
        until_true(started, "the Sentinel to begin the failover")


def _wait_for_replica(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.set("before", "the failover")
        assert client.wait(1, 5_000) == 1


async def test_a_dead_node_affects_its_own_buckets_only(redis_cluster: LoopbackCluster, bucket: MakeBucket) -> None:
    """While one node of three hangs, charges on the others succeed at once, alone and in one call with its own."""
    store = open_bucket_store(
        redis_cluster.url, timeout=0.1, request_window=60, usage_bytes=2**28, observers=UNOBSERVED
    )
    partitions = [next(p for p in range(256) if key_slot(b"{p%d}" % p) * 3 // 16_384 == node) for node in range(3)]
    dead, *alive = [bucket(LARGE, partition=partition) for partition in partitions]
    on_all_nodes = [Charge((each,), (1,)) for each in (alive[0], dead, alive[1])]
    async with store:
        await store.charge(on_all_nodes)
        hung = redis_cluster.nodes[0]
        os.kill(hung.pid, signal.SIGSTOP)
        try:
            begin = time.monotonic()
            while not store.breaker_open:
                with pytest.raises(StoreUnavailable):
                    await take(store, dead)
            assert time.monotonic() - begin < 0.5
            begin = time.monotonic()
            for count in range(2, 12):
                with pytest.raises(StoreUnavailable, match="circuit breaker open"):
                    await take(store, dead)
                with pytest.raises(PartlyUnavailable) as error:
                    await store.charge(on_all_nodes)
                assert [isinstance(result, ChargeResult) for result in error.value.results] == [True, False, True]
                assert await take(store, alive[0], cost=0) == count
            assert time.monotonic() - begin < 0.5
            with pytest.raises(StoreUnavailable):
                await store.ping()
        finally:
            os.kill(hung.pid, signal.SIGCONT)
        await until(lambda: not store.breaker_open)
        assert all(result.charged for result in await store.charge(on_all_nodes))
        await store.ping()


async def test_a_call_that_fails_in_part_counts_for_the_dead_node_only(
    redis_cluster: LoopbackCluster, bucket: MakeBucket
) -> None:
    """Calls with buckets on all nodes open the breaker of the one that hangs, and of no other."""
    store = open_bucket_store(
        redis_cluster.url, timeout=0.1, request_window=60, usage_bytes=2**28, observers=UNOBSERVED
    )
    partitions = [next(p for p in range(256) if key_slot(b"{p%d}" % p) * 3 // 16_384 == node) for node in range(3)]
    buckets = [bucket(LARGE, partition=partition) for partition in partitions]
    async with store:
        await store.charge([Charge((each,), (1,)) for each in buckets])
        os.kill(redis_cluster.nodes[2].pid, signal.SIGSTOP)
        try:
            for count in range(2, 5):
                with pytest.raises(PartlyUnavailable) as error:
                    await store.charge([Charge((each,), (1,)) for each in buckets])
                assert [isinstance(result, ChargeResult) for result in error.value.results] == [True, True, False]
                assert await take(store, buckets[0], cost=0) == count
            assert store.breaker_open
        finally:
            os.kill(redis_cluster.nodes[2].pid, signal.SIGCONT)
        await until(lambda: not store.breaker_open)
