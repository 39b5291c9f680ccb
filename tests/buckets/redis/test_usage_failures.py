"""Who counts a call when its reply is late, lost, or was never to come."""

import asyncio
import os
import signal

import pytest
import redis

from buckets.conftest import MakeBucket, OpenStore
from buckets.redis.usage import UsageReader, node_with
from faults.proxy import FaultProxy
from fixtures.redis_cluster import LoopbackCluster
from fixtures.valkey import StartValkey
from ratelimit_service.buckets.redis import connection
from ratelimit_service.clock import SystemClock
from ratelimit_service.decision.charge import Bucket, Charge, Counted
from ratelimit_service.decision.limit import Limit, Mode, Quota, Window
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.decision.usage import Counts, Series
from ratelimit_service.decision.usage_tally import UsageTally

SERIES = Series.of_key("key", "orders", "acme", "free", ["burst"])
LARGE = Limit("burst", Quota(1_000_000, Window.YEAR))
ONCE = Counts(1, 1, limits=((0, 0),))


def call(bucket: Bucket) -> Charge:
    """A counted call."""
    return Charge((bucket,), (1,), "", (Counted(SERIES, 1),))


@pytest.fixture
def tally() -> UsageTally:
    """What the worker counts."""
    return UsageTally(SystemClock())


def rows(tally: UsageTally) -> dict[bytes, list[int]]:
    """What the worker has counted."""
    return {row.field: list(row.counts) for row in tally.take(100)}


async def test_a_late_reply_makes_the_call_degraded(
    valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket, tally: UsageTally
) -> None:
    """A call that the script decided too late is counted there, and the worker adds that its answer was degraded."""
    server = valkey()
    store, large = open_store(server.url, timeout=0.3, usage=tally), bucket(LARGE)
    await store.ping()
    os.kill(server.pid, signal.SIGSTOP)
    with pytest.raises(StoreUnavailable) as error:
        await store.charge((call(large), Charge((large,), (0,))))
    assert error.value.sent
    os.kill(server.pid, signal.SIGCONT)
    while not tally.bytes:  # noqa: ASYNC110 the tally has no event
        await asyncio.sleep(0.01)
    assert UsageReader(redis.Redis.from_url(server.url)).open() == {SERIES.field: ONCE}
    assert rows(tally) == {SERIES.field: [0, 0, 0, 0, 1]}
    assert tally.unconfirmed == 0


async def test_a_lost_reply_is_unconfirmed(
    valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket, tally: UsageTally
) -> None:
    """When the connection breaks before the reply, only a metric has the call, whether the script counted it or not."""
    server = valkey()
    with FaultProxy(server.port) as proxy:
        store, large = open_store(proxy.url, timeout=1, usage=tally), bucket(LARGE)
        await store.ping()
        proxy.lose_next_reply()
        with pytest.raises(StoreUnavailable) as error:
            await store.charge((call(large), call(large), Charge((large,), (0,))))
    assert error.value.sent
    assert tally.unconfirmed == 2
    assert rows(tally) == {}


async def test_a_reply_that_never_comes_is_unconfirmed(
    valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket, tally: UsageTally, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that was given up is closed after a while, and its calls are unconfirmed."""
    monkeypatch.setattr(connection, "LATE_SECONDS", 0.1)
    server = valkey()
    store, large = open_store(server.url, timeout=0.2, usage=tally), bucket(LARGE)
    await store.ping()
    os.kill(server.pid, signal.SIGSTOP)
    with pytest.raises(StoreUnavailable):
        await store.charge((call(large),))
    assert tally.unconfirmed == 0
    await asyncio.sleep(0.3)
    os.kill(server.pid, signal.SIGCONT)
    assert tally.unconfirmed == 1
    assert rows(tally) == {}


async def test_a_call_that_was_not_sent_is_known_not_to_be_counted(
    valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket, tally: UsageTally
) -> None:
    """A call that waited in the queue, or found no server, was not sent, so that its worker counts it."""
    server = valkey()
    store, large = open_store(server.url, timeout=0.2, usage=tally), bucket(LARGE)
    await store.ping()
    os.kill(server.pid, signal.SIGSTOP)
    first = asyncio.ensure_future(store.charge((call(large),)))
    await asyncio.sleep(0.05)
    queued = asyncio.ensure_future(store.charge((call(large),)))
    await asyncio.wait((first, queued))
    server.stop()
    await asyncio.sleep(0.1)  # the end of the connection is read
    with pytest.raises(StoreUnavailable) as refused:
        await store.charge((call(large),))
    assert not refused.value.sent
    assert [
        error.sent for error in map(asyncio.Future.exception, (first, queued)) if isinstance(error, StoreUnavailable)
    ] == [True, True]


async def test_spanning_charges_are_counted_by_the_worker(
    redis_cluster: LoopbackCluster, open_store: OpenStore, bucket: MakeBucket, tally: UsageTally
) -> None:
    """A charge of several partitions, which several scripts decide, is counted once, by the worker."""
    store = open_store(redis_cluster.url, usage=tally)
    buckets = (
        bucket(Limit("a", Quota(2, Window.YEAR)), 0),
        bucket(Limit("b", Quota(1, Window.YEAR), mode=Mode.SHADOW), 1),
    )
    series = Series.of_rule("edge", "path", ["a", "b"])
    for _ in range(3):
        await store.charge((Charge(buckets, (1, 1), "", (Counted(series, 1),)),))
    assert rows(tally) == {series.field: [2, 2, 1, 2, 0, 1, 0, 0, 2]}
    for partition in (0, 1):
        tag = f"{{p{partition}}}"
        assert series.field not in UsageReader(node_with(redis_cluster, tag), tag).open()


async def test_charges_of_one_partition_are_counted_in_it(
    redis_cluster: LoopbackCluster, open_store: OpenStore, bucket: MakeBucket, tally: UsageTally
) -> None:
    """On a cluster the script counts beside the buckets, and the worker nothing."""
    store, tag = open_store(redis_cluster.url, usage=tally), "{p77}"
    await store.charge((call(bucket(LARGE, 77)),))
    assert UsageReader(node_with(redis_cluster, tag), tag).open() == {SERIES.field: ONCE}
    assert rows(tally) == {}
