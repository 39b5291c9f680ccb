"""Postgres is away while many keys are called: the bucket store's memory is bounded, and no count is lost."""

import asyncio

import redis

from buckets.clocked import ClockedStore
from ratelimit_service.decision.charge import Bucket, Charge, Counted
from ratelimit_service.decision.limit import Limit, Quota, Window
from ratelimit_service.decision.usage import Series
from ratelimit_service.usage.segment import MINUTE_US
from usage.world import NOW_US, UsageWorld, leftovers, losses, query, totals

KEYS = 200
MINUTES = 120
CAP = 160_000
"""Bytes: four minutes of these keys."""

ROOM = 1.25
"""The part of the cap up to which open counts may exceed it."""


def memory(client: redis.Redis) -> int:
    """What all keys of counts take, as the store itself measures it. Not the list of each key's resources."""
    keys = set(client.keys("{u}:u:*")) - {b"{u}:u:r"}
    return sum(int(client.memory_usage(key, samples=0) or 0) for key in keys)


def count(url: str, names: list[str]) -> int:
    """Count a call of each key in each minute, and return the most bytes that the counts took."""
    bucket = Bucket("usage.away", 0, Limit("burst", Quota(10**9, Window.DAY)))
    charges = [
        Charge((bucket,), (1,), counted=(Counted(Series.of_key(name, "orders", "acme", "free", ["burst"]), 1),))
        for name in names
    ]
    most = 0
    with ClockedStore(url, "clock:away", usage_bytes=CAP) as store:
        for minute in range(MINUTES):
            results = store.charge(charges, NOW_US + minute * MINUTE_US)
            assert all(result.charged for result in results)
            most = max(most, memory(store.client))
    return most


async def test_minutes_merge_rather_than_vanish(world: UsageWorld) -> None:
    """Two hours of calls that nobody takes stay in the bytes for counts; once they are flushed all calls are there."""
    names = [f"key{number:04}" for number in range(KEYS)]

    most = await asyncio.to_thread(count, world.redis_url, names)
    segments = len(world.client.keys("{u}:u:s:*"))
    await world.flush_all()

    assert most <= ROOM * CAP
    assert 4 < segments < MINUTES / 8
    assert totals(world.database_url, "day") == dict.fromkeys(names, (MINUTES, 0, MINUTES, 0, 0))
    assert query(world.database_url, "SELECT sum(allowed)::bigint FROM usage_minute") == [(KEYS * MINUTES,)]
    assert query(world.database_url, "SELECT count(DISTINCT minute) FROM usage_minute")[0][0] >= segments
    assert losses(world.database_url) == []
    assert leftovers(world.client) == {"segments": 0, "queues": 0, "bytes": 0}
