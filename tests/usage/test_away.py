"""Postgres is away while many keys are called: the bucket store's memory is bounded, and no count is lost.

`make soak` sets RATELIMIT_SOAK: then also an hour of 10,000 keys, under the default cap, and under one that it exceeds.
"""

import asyncio
import os

import pytest
import redis

from buckets.clocked import ClockedStore
from ratelimit_service.decision.charge import Bucket, Charge, Counted
from ratelimit_service.decision.limit import Limit, Quota, Window
from ratelimit_service.decision.usage import Series
from ratelimit_service.usage.segment import MINUTE_US
from usage.world import NOW_US, UsageWorld, leftovers, losses, query, totals

SIZES = [(200, 120, 160_000)]
"""Keys, minutes, and the cap in bytes."""

if "RATELIMIT_SOAK" in os.environ:
    SIZES += [(10_000, 60, 2**28), (10_000, 60, 2**24)]

FIELD_BYTES = 180
"""What the scripts estimate for a key and minute, at most."""

BATCH = 200

ROOM = 1.25
"""The part of the cap up to which open counts may exceed it."""


def memory(client: redis.Redis) -> int:
    """What all keys of counts take, as the store itself measures it. Not the list of each key's resources."""
    keys = set(client.keys("{u}:u:*")) - {b"{u}:u:r"}
    return sum(int(client.memory_usage(key, samples=0) or 0) for key in keys)


def count(url: str, names: list[str], minutes: int, cap: int) -> int:
    """Count a call of each key in each minute, and return the most bytes that the counts took."""
    bucket = Bucket("usage.away", 0, Limit("burst", Quota(10**9, Window.DAY)))
    charges = [
        Charge((bucket,), (1,), counted=(Counted(Series.of_key(name, "orders", "acme", "free", ["burst"]), 1),))
        for name in names
    ]
    most = 0
    with ClockedStore(url, "clock:away", usage_bytes=cap) as store:
        for minute in range(minutes):
            for start in range(0, len(charges), BATCH):
                results = store.charge(charges[start : start + BATCH], NOW_US + minute * MINUTE_US)
                assert all(result.charged for result in results)
            most = max(most, memory(store.client))
    return most


@pytest.mark.parametrize(("keys", "minutes", "cap"), SIZES)
async def test_minutes_merge_rather_than_vanish(world: UsageWorld, keys: int, minutes: int, cap: int) -> None:
    """Calls of minutes that nobody takes stay in the bytes for counts; once they are flushed all of them are there."""
    names = [f"key{number:05}" for number in range(keys)]

    most = await asyncio.to_thread(count, world.redis_url, names, minutes, cap)
    segments = len(world.client.keys("{u}:u:s:*"))
    print(f"{keys:,} keys, {minutes} minutes, a cap of {cap:,}: {most:,} bytes in {segments} segments")  # noqa: T201
    await world.flush_all()

    assert most <= ROOM * cap
    if keys * minutes * FIELD_BYTES < cap / 2:
        assert segments == minutes - 1  # the last is still open
    else:
        assert 2 < segments < minutes / 2
    assert totals(world.database_url, "day") == dict.fromkeys(names, (minutes, 0, minutes, 0, 0))
    assert query(world.database_url, "SELECT sum(allowed)::bigint FROM usage_minute") == [(keys * minutes,)]
    assert query(world.database_url, "SELECT count(DISTINCT minute) FROM usage_minute")[0][0] >= segments
    assert losses(world.database_url) == []
    assert leftovers(world.client) == {"segments": 0, "queues": 0, "bytes": 0}
