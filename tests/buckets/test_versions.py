"""Servers of the version before and of this one on the same store: states that one writes are read by the other.

`earlier/` has the script of the version before, whose buckets have no levels (docs/adr/0002).
"""

import asyncio
import struct
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Final

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buckets.clocked import ClockedStore, clock_part
from buckets.conftest import MakeBucket
from buckets.limits import limits
from ratelimit_service.buckets.redis.connect import open_unguarded_store
from ratelimit_service.buckets.redis.room import Room
from ratelimit_service.buckets.redis.script import Script
from ratelimit_service.buckets.reference import ReferenceBuckets
from ratelimit_service.decision.charge import Bucket, Charge, ChargeResult, Counted
from ratelimit_service.decision.limit import MICRO, Limit, Quota, TokenBucket, Window
from ratelimit_service.decision.usage import Series

NOW_US: Final = 1_800_000_000_000_000
FREE: Final = Limit("burst", TokenBucket(10, 1, MICRO))
PRO: Final = Limit("burst", TokenBucket(1_000, 100, MICRO))
_CLOCK: Final = "clock:versions"
_names = count()


def earlier_scripts(clock: str | None = None) -> tuple[Script, ...]:
    """The charge scripts of the version before."""
    folder = Path(__file__).parent / "earlier"
    real = folder / "clock.lua"
    texts = [clock or real.read_text()]
    texts += [(folder / f"{name}.lua").read_text() for name in ("windows", "state", "usage", "charge")]
    return tuple(Script(f"local ROOM_LEFT = {room:d}", *texts, allow_oom=room is Room.FULL) for room in Room)


class EarlierStore(ClockedStore):
    """One that charges as the version before does."""

    def scripts(self) -> tuple[Script, ...]:
        """The script of the version before."""
        return earlier_scripts(clock_part(self._key))[:1]


@pytest.fixture(scope="module")
def both(valkey_url: str) -> Iterator[tuple[ClockedStore, ClockedStore]]:
    """A store of the version before, and one of this one, with one clock."""
    with EarlierStore(valkey_url, _CLOCK) as before, ClockedStore(valkey_url, _CLOCK) as now:
        yield before, now


_CALLS: Final = st.lists(
    st.tuples(st.booleans(), st.integers(0, 1), st.integers(-3, 20), st.integers(-2_000_000, 90_000_000_000)),
    min_size=1,
    max_size=40,
)


@given(pair=st.lists(limits(overdrafts=False), min_size=2, max_size=2), calls=_CALLS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_limit_for_each_bucket_is_the_same_in_both(
    both: tuple[ClockedStore, ClockedStore], pair: list[Limit], calls: list[tuple[bool, int, int, int]]
) -> None:
    """While no limit changes, it makes no difference which version decides a call: all results are exact."""
    reference, run, now_us = ReferenceBuckets(), next(_names), NOW_US
    buckets = [Bucket(f"versions.{run}.{index}", 0, limit) for index, limit in enumerate(pair)]
    for newer, which, cost, pause in calls:
        now_us += pause
        charges = [Charge((buckets[which],), (cost,)), Charge(tuple(buckets), (cost, 1))]
        assert both[newer].charge(charges, now_us) == reference.charge(charges, now_us)


def test_a_state_with_levels_is_what_is_used_to_the_version_before(
    both: tuple[ClockedStore, ClockedStore],
) -> None:
    """It reads the five numbers and ignores the rest, and what it writes is read by this one."""
    before, now = both
    name = f"versions.{next(_names)}"

    def take(store: ClockedStore, limit: Limit, cost: int, seconds: int) -> ChargeResult:
        return store.charge([Charge((Bucket(name, 0, limit),), (cost,))], NOW_US + seconds * MICRO)[0]

    assert take(before, PRO, 1_000, 0).charged
    assert take(now, FREE, 1, 1).charged
    state = before.client.get(f"{{p0}}:b:{name}")
    assert isinstance(state, bytes)
    assert len(state) == 112
    used = struct.unpack_from("<d", state)[0]
    peek = take(before, PRO, 0, 1).limit_results[0]
    assert peek.remaining == 1_000 * MICRO - used
    assert take(before, PRO, 1, 2).charged
    assert len(before.client.get(f"{{p0}}:b:{name}")) in (24, 40)  # type: ignore[arg-type]
    assert not take(now, FREE, 1, 2).charged
    assert take(now, FREE, 1, 3).charged


def test_a_longer_state_of_a_later_version_is_read(both: tuple[ClockedStore, ClockedStore]) -> None:
    """What a later version appends is ignored, after the five numbers and after the levels."""
    _, now = both
    for levels in (False, True):
        bucket = Bucket(f"versions.{next(_names)}", 0, FREE)
        key = f"{{p0}}:b:{bucket.name}"
        numbers = [4.0 * MICRO, NOW_US, NOW_US + 4.0 * MICRO, 0.0, 1.0]
        if levels:
            numbers = [400.0 * MICRO, NOW_US, NOW_US + 4.0 * MICRO, 0.0, 1.0]
            numbers += [100.0, 1.0, NOW_US + 4.0 * MICRO, 1.0, 10.0 * MICRO, 1.0, 1.0, 4.0 * MICRO, 0.0]
        else:
            numbers += [0.0, 1.0, 0.0, 0.0]  # no level
        now.client.set(key, struct.pack(f"<{len(numbers) + 3}d", *numbers, 7.0, 8.0, 9.0))
        (result,) = now.charge([Charge((bucket,), (2,))], NOW_US)
        assert (result.charged, result.limit_results[0].remaining) == (True, 4 * MICRO)


async def test_side_by_side_no_limit_is_exceeded(valkey_url: str, bucket: MakeBucket) -> None:
    """Servers of both versions at once, restarted once: no error, no token too many, and each request charged once."""
    burst, quota = Limit("burst", TokenBucket(500, 1, 86_400 * MICRO)), Limit("q", Quota(700, Window.YEAR))
    buckets = {"burst": bucket(burst), "quota": bucket(quota)}
    series = Series.of_key("0" * 16, "r", "s", "p", ["burst"])
    scripts = {"before": earlier_scripts(), "now": None}
    admitted = 0

    async def call(version: str, names: tuple[str, ...], numbers: range) -> int:
        store = open_unguarded_store(valkey_url, timeout=10, request_window=60, scripts=scripts[version])
        wanted = tuple(buckets[name] for name in names)
        async with store:
            charges = [
                Charge(wanted, (1,) * len(wanted), f"{bucket_run}.{names}.{number}", (Counted(series, 1),))
                for number in numbers
            ]
            results = await asyncio.gather(*(store.charge((charge,)) for charge in charges))
            again = await asyncio.gather(*(store.charge((charge,)) for charge in charges[:20]))
        for (first,), (second,) in zip(results, again, strict=False):
            assert not first.charged or second == first
        return sum(result.charged for (result,) in results)

    bucket_run = buckets["burst"].name
    with redis.Redis.from_url(valkey_url) as client:
        for start in (0, 1_000):
            parts = [
                call(version, names, range(start + offset, start + offset + 300))
                for version, offset in (("before", 0), ("now", 300))
                for names in (("burst",), ("burst", "quota"))
            ]
            admitted += sum(await asyncio.gather(*parts))
            client.script_flush()
    assert admitted == 500
