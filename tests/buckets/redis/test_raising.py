"""The script that raises quotas again: it never lowers, never adds, and leaves other windows and levels as they are."""

import asyncio
from collections.abc import Iterator
from itertools import count
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buckets.clocked import ClockedStore, clock_part
from ratelimit_service.buckets.levels import SeenQuota
from ratelimit_service.buckets.redis.connection import Address, Login, open_connection
from ratelimit_service.buckets.redis.raising import QuotaLevel, Raised, level_of, raise_on, raise_script
from ratelimit_service.buckets.redis.script import bucket_key, kind_of
from ratelimit_service.decision.charge import Bucket, Charge
from ratelimit_service.decision.limit import MICRO, Limit, Quota, TokenBucket, Window
from ratelimit_service.decision.window import LONG_WINDOWS, span

NOW_US: Final = 1_800_000_000_000_000
HOUR_US: Final = 3_600 * MICRO
_CLOCK: Final = "clock:raising"
_names = count()
SMALL = TokenBucket(10, 1, MICRO)


@pytest.fixture(scope="module")
def store(valkey_url: str) -> Iterator[ClockedStore]:
    """A store with a clock of its own."""
    with ClockedStore(valkey_url, _CLOCK) as opened:
        yield opened


def raise_quotas(store: ClockedStore, levels: list[QuotaLevel], now_us: int) -> dict[Raised, int]:
    """Raise at this time."""
    store.client.set(_CLOCK, now_us)
    port = store.client.connection_pool.connection_kwargs["port"]

    async def run() -> dict[Raised, int]:
        connection = await open_connection(Address("127.0.0.1", port), Login())
        try:
            results = await raise_on(connection, raise_script(clock_part(_CLOCK)), levels)
        finally:
            connection.close("done")
        return {result: number for result, number in results.items() if number}

    return asyncio.run(run())


def used(store: ClockedStore, bucket: Bucket, now_us: int) -> int:
    """Micro-tokens that are used by this limit."""
    ((_, (result,), *_),) = store.charge([Charge((bucket,), (0,))], now_us)
    return bucket.limit.capacity * MICRO - result.remaining


_CALLS: Final = st.lists(
    st.tuples(st.sampled_from(["quota", "small", "large"]), st.integers(-3, 60), st.integers(-HOUR_US, 90 * HOUR_US)),
    max_size=12,
)


@given(
    window=st.sampled_from(sorted(LONG_WINDOWS, key=str)),
    calls=_CALLS,
    value=st.integers(1, 200 * MICRO),
    ago=st.sampled_from([0, 0, 1, -1]),
    pause=st.integers(0, 50 * HOUR_US),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_never_lowers_and_never_adds(  # noqa: PLR0917
    store: ClockedStore, window: Window, calls: list[tuple[str, int, int]], value: int, ago: int, pause: int
) -> None:
    """Used is the larger of what it was and the value, in the open window only; a second time changes nothing."""
    name = f"raising.{next(_names)}"
    limits = {
        "quota": Limit("a", Quota(1_000, window)),
        "small": Limit("a", SMALL),
        "large": Limit("a", TokenBucket(1_000, 100, MICRO)),
    }
    buckets = {kind: Bucket(name, 0, limit) for kind, limit in limits.items()}
    now_us = NOW_US
    for kind, cost, step in calls:
        now_us += step
        store.charge([Charge((buckets[kind],), (cost,))], now_us)
    now_us += pause
    before = {kind: used(store, bucket, now_us) for kind, bucket in buckets.items()}
    state = store.client.get(bucket_key(buckets["quota"]))
    start_us, end_us = span(window, now_us)
    start_us = (start_us, span(window, start_us - 1)[0], end_us)[ago]
    algorithm = limits["quota"].algorithm
    assert isinstance(algorithm, Quota)
    level = QuotaLevel(bucket_key(buckets["quota"]), kind_of(algorithm), start_us, value)

    results = raise_quotas(store, [level], now_us)
    after = {kind: used(store, bucket, now_us) for kind, bucket in buckets.items()}
    if ago:
        assert results == {Raised.ENDED: 1}
        assert store.client.get(bucket_key(buckets["quota"])) == state
        return
    raised = value > before["quota"]
    assert results == {Raised.RAISED if raised else Raised.CURRENT: 1}
    assert after["quota"] == max(before["quota"], value)
    if not raised:
        assert store.client.get(bucket_key(buckets["quota"])) == state
    elif span(window, now_us)[1] - now_us > 10 * MICRO:
        assert store.client.pttl(bucket_key(buckets["quota"])) > 10_000
    assert raise_quotas(store, [level], now_us) == {Raised.CURRENT: 1}
    assert {kind: used(store, bucket, now_us) for kind, bucket in buckets.items()} == after


def test_a_level_of_a_smaller_limit_stays(store: ClockedStore) -> None:
    """A token bucket that holds less than what is used goes on from its own level, raised or not."""
    name = f"raising.{next(_names)}"
    quota, small = Bucket(name, 0, Limit("a", Quota(1_000, Window.DAY))), Bucket(name, 0, Limit("a", SMALL))
    start_us = span(Window.DAY, NOW_US)[0]
    level = QuotaLevel(bucket_key(quota), kind_of(Quota(1_000, Window.DAY)), start_us, 900 * MICRO)
    store.charge([Charge((quota,), (500,))], NOW_US)
    store.charge([Charge((small,), (1,))], NOW_US + 4 * MICRO)
    now_us = NOW_US + 6 * MICRO
    before = used(store, small, now_us)
    assert before == 5 * MICRO
    assert raise_quotas(store, [level], now_us) == {Raised.RAISED: 1}
    assert (used(store, quota, now_us), used(store, small, now_us)) == (900 * MICRO, before)
    assert used(store, small, now_us + 2 * MICRO) == before - 2 * MICRO


def test_several_at_once(store: ClockedStore) -> None:
    """Each quota of a run is raised for itself."""
    buckets = [Bucket(f"raising.{next(_names)}", 0, Limit("a", Quota(1_000, Window.DAY))) for _ in range(128)]
    start_us = span(Window.DAY, NOW_US)[0]
    levels = [QuotaLevel(bucket_key(bucket), 5, start_us, n * MICRO) for n, bucket in enumerate(buckets)]
    assert raise_quotas(store, levels, NOW_US) == {Raised.RAISED: 127, Raised.CURRENT: 1}
    assert [used(store, bucket, NOW_US) for bucket in buckets] == [n * MICRO for n in range(128)]


@pytest.mark.parametrize("skew", [-600 * MICRO, 0, 600 * MICRO])
@pytest.mark.parametrize("window", sorted(LONG_WINDOWS, key=str))
def test_the_window_is_the_one_that_was_seen(window: Window, skew: int) -> None:
    """The window of what was seen is found although the clocks of the store and of the worker differ by minutes."""
    start_us, end_us = span(window, NOW_US)
    bucket = Bucket("q", 0, Limit("a", Quota(10, window)))
    for at_us in (start_us, start_us + 1, NOW_US, end_us - 1):
        seen = SeenQuota(bucket, 5, 100.0 + (end_us - at_us) / MICRO)
        assert level_of(b"q", seen, 100.0, at_us + skew)[2] == start_us
