"""Settlements while the limits in force cannot be read."""

import asyncio
import time

import pytest

from decision.memory import PEPPERS, ManualClock, MemoryBuckets, MemorySource, burst, record
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.engine import Check, DecisionEngine
from ratelimit_service.decision.key_resolver import KeyResolver
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.reservation import ReservationIds
from ratelimit_service.decision.settlement import Settlements
from ratelimit_service.decision.usage_tally import UsageTally


@pytest.mark.parametrize("down", [True, False], ids=["down", "hanging"])
async def test_postgres_takes_half_of_the_time_at_most(*, down: bool) -> None:
    """On a server that does not know the key: then the limits are those of the reservation, and the store is asked."""
    clock, source = ManualClock(), MemorySource()
    buckets, ids = MemoryBuckets(clock), ReservationIds([b"secret"])
    api_key = ApiKey.generate("live")
    source.records[api_key.key_id] = record(api_key, burst(20))
    resolver = KeyResolver(PolicyCache(source, clock), PEPPERS)
    engine = DecisionEngine(resolver, buckets, buckets, UsageTally(clock), ids)
    made = await engine.check(Check(api_key=str(api_key), cost=10, hold_us=30_000_000))
    if down:
        source.down = True
    else:
        source.before_answer = asyncio.Event()
    policies = PolicyCache(source, clock)
    await policies.refresh_all()  # which lists the ids of keys
    await asyncio.sleep(0.05)
    elsewhere = Settlements(KeyResolver(policies, PEPPERS), buckets, ids)
    began = time.monotonic()
    settled = await elsewhere.settle(made.reservation_id, 4, began + 1.0)
    assert settled.result.limit_results[0].remaining == 16_000_000
    assert time.monotonic() - began < 0.8
    await policies.close()
