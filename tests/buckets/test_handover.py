"""What was spent without the store is handed to it once, and makes no debt."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from buckets.conftest import MakeBucket, OpenStore
from faults.proxy import FaultProxy
from ratelimit_service.buckets.handover import RESEND_SECONDS, Handover
from ratelimit_service.buckets.levels import LevelMemory
from ratelimit_service.buckets.local import LocalBucketStore
from ratelimit_service.clock import SystemClock
from ratelimit_service.decision.charge import Bucket, Charge
from ratelimit_service.decision.limit import MICRO, Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.ports import BucketStore, StoreUnavailable

AWAY = StoreUnavailable("Redis is down")
SENT = StoreUnavailable("no reply", sent=True)
QUOTA = Limit("q", Quota(100, Window.YEAR))
SLOW = Limit("s", TokenBucket(100, 1, 86_400 * MICRO))


@pytest.fixture(params=["valkey_url", "redis_cluster"])
def url(request: pytest.FixtureRequest) -> str:
    """Each kind of server in turn."""
    server = request.getfixturevalue(request.param)
    return server if isinstance(server, str) else str(server.url)


@pytest.fixture
def proxy(valkey_url: str) -> Iterator[FaultProxy]:
    """A proxy to Valkey."""
    with FaultProxy(int(valkey_url.rpartition(":")[2].partition("/")[0])) as running:
        yield running


def local_store() -> LocalBucketStore:
    """The only server's."""
    return LocalBucketStore(lambda: 1, SystemClock().now_us)


def spend(local: LocalBucketStore, bucket: Bucket, tokens: int, error: StoreUnavailable = AWAY) -> None:
    """So many calls that LOCAL allows."""
    for _ in range(tokens):
        assert local.decide(Charge((bucket,), (1,)), error).charged


async def used(store: BucketStore, bucket: Bucket) -> int:
    """Whole tokens that the store has charged."""
    (result,) = await store.charge([Charge((bucket,), (0,))])
    return -(-(bucket.limit.capacity * MICRO - result.limit_results[0].remaining) // MICRO)


async def test_the_store_is_charged_once(url: str, open_store: OpenStore, bucket: MakeBucket) -> None:
    """What LOCAL and ALLOW let through is charged when the store is back, and not again."""
    store, local = open_store(url), local_store()
    handover = Handover(local, store)
    buckets = [bucket(limit, partition) for partition, limit in enumerate([QUOTA, SLOW] * 100)]
    for number, one in enumerate(buckets):
        spend(local, one, 1 + number % 3)
        local.spend(Charge((one,), (2,)), AWAY)
    for _ in range(3):
        assert await handover.flush()
    assert [await used(store, one) for one in buckets] == [3 + number % 3 for number in range(200)]
    assert local.waiting == 0
    assert handover.handed_over == sum(3 + number % 3 for number in range(200))


async def test_a_limit_with_an_overdraft_owes_what_was_spent(
    valkey_url: str, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """Of more than a bucket has, it owes the rest as far as the overdraft goes; what is above that is dropped."""
    store = open_store(valkey_url)
    for limit in (Limit("q", Quota(100, Window.YEAR), overdraft=15), replace(SLOW, overdraft=15)):
        local, one = local_store(), bucket(limit)
        handover = Handover(local, store)
        await store.charge([Charge((one,), (70,))])
        local.spend(Charge((one,), (50,), afterwards=True), AWAY)
        assert await handover.flush()
        assert await used(store, one) == 115
        assert (handover.handed_over, handover.dropped, local.waiting) == (45, 5, 0)


async def test_it_stops_at_empty(valkey_url: str, open_store: OpenStore, bucket: MakeBucket) -> None:
    """Of more than a bucket has, it takes what there is: no debt, whatever the bucket and its mode."""
    store = open_store(valkey_url)
    limits = [QUOTA, SLOW, Limit("shadow", Quota(100, Window.YEAR), mode=Mode.SHADOW)]
    for limit in limits:
        local, one = local_store(), bucket(limit)
        handover = Handover(local, store)
        await store.charge([Charge((one,), (70,))])
        local.spend(Charge((one,), (50,)), AWAY)
        assert await handover.flush()
        assert await used(store, one) == 100
        assert (handover.handed_over, handover.dropped) == (30, 20)


async def test_what_the_store_may_have_charged_is_not_handed_over(
    valkey_url: str, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """Where only the reply is missing the charge may have been made: it is counted here, and never charged again."""
    store, local, one = open_store(valkey_url), local_store(), bucket(QUOTA)
    spend(local, one, 5, SENT)
    local.spend(Charge((one,), (5,)), SENT)
    spend(local, one, 2)
    assert local.decide(Charge((one,), (0,)), AWAY).limit_results[0].remaining == 93 * MICRO
    assert await Handover(local, store).flush()
    assert await used(store, one) == 2


async def test_a_lost_reply_is_repeated_by_its_id(
    proxy: FaultProxy, valkey_url: str, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """The connection is cut after the store has charged: it is charged once, and what was spent since is added."""
    store, direct, local, one = open_store(proxy.url), open_store(valkey_url), local_store(), bucket(QUOTA)
    handover = Handover(local, store)
    await store.ping()
    spend(local, one, 5)
    proxy.lose_next_reply()
    assert not await handover.flush()
    assert await used(direct, one) == 5
    spend(local, one, 3)
    assert await handover.flush()
    assert await used(direct, one) == 8
    assert local.waiting == 0


async def test_what_stays_without_a_reply_counts_as_made(
    proxy: FaultProxy, valkey_url: str, open_store: OpenStore, bucket: MakeBucket
) -> None:
    """A repeat that may come too late for its id is not sent: rather too little is charged than twice."""
    now = 0.0
    store, direct, local, one = open_store(proxy.url), open_store(valkey_url), local_store(), bucket(QUOTA)
    handover = Handover(local, store, lambda: now)
    await store.ping()
    spend(local, one, 5)
    proxy.lose_next_reply()
    assert not await handover.flush()
    now = RESEND_SECONDS + 0.1
    assert await handover.flush()
    assert await used(direct, one) == 5
    assert (handover.handed_over, handover.unconfirmed) == (0, 5)


async def test_what_has_drained_is_not_handed_over() -> None:
    """A bucket is charged what is still used of it, as if the store had been there."""
    now = 1_800_000_000 * MICRO
    levels = LevelMemory(lambda: now / MICRO)
    local = LocalBucketStore(lambda: 1, lambda: now, levels)
    one = Bucket("b", 0, Limit("b", TokenBucket(20, 10, MICRO)))
    spend(local, one, 20)
    now += MICRO
    assert [tokens for _, tokens in local.unreported(10)] == [10]
    now += MICRO
    assert local.unreported(10) == []
    assert local.waiting == 0


async def test_what_is_forgotten_is_counted() -> None:
    """Of more buckets than there is room for, those charged longest ago are forgotten, and their tokens counted."""
    local = LocalBucketStore(lambda: 1, SystemClock().now_us, size=10)
    for number in range(12):
        spend(local, Bucket(str(number), 0, QUOTA), 3)
    assert (local.waiting, local.evicted) == (10, 6)


async def test_of_what_is_allowed_without_end_no_more_is_kept_than_a_limit_has() -> None:
    """ALLOW may let a thousand times the limit through: the store is asked for the limit once."""
    local, one = local_store(), Bucket("b", 0, QUOTA)
    for _ in range(1_000):
        local.spend(Charge((one,), (100,)), AWAY)
    assert [tokens for _, tokens in local.unreported(10)] == [100]
    local.report(one, 100)
    assert local.unreported(10) == []
