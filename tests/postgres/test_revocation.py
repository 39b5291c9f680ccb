"""A revocation is in force within a second, whatever else changes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from time import monotonic

import psycopg
import pytest_asyncio

from fixtures.control_plane import BURST, ControlPlane, key_draft, plan_draft
from ratelimit_service.decision.cache_invalidator import CacheInvalidator
from ratelimit_service.decision.limit import Level
from ratelimit_service.decision.lookup_budget import LookupBudget
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.reason import Reason
from ratelimit_service.decision.record import Override
from ratelimit_service.management.overrides import OverrideTarget
from ratelimit_service.management.plans import PlanChanges
from ratelimit_service.postgres.change_feed import PostgresChangeFeed
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.policy_source import PostgresPolicySource

KEYS = 5_000
LIMITS = [replace(BURST, name=f"limit-{number}", resource=f"{number}" * 100) for number in range(16)]
TARGET = OverrideTarget(Level.SUBJECT, "tenant")


@pytest_asyncio.fixture
async def cache(database: Database, control_plane: ControlPlane) -> AsyncIterator[PolicyCache]:
    """Start a cache that follows the change feed."""
    ample = LookupBudget(per_second=1e6, burst=1e6)
    cache = PolicyCache(PostgresPolicySource(database), control_plane.clock, budget=ample)
    feed = PostgresChangeFeed(database)
    following = asyncio.create_task(CacheInvalidator(feed, cache).run())
    yield cache
    following.cancel()
    await cache.close()
    await feed.close()


async def test_a_revocation_beside_changes_of_many_keys(
    cache: PolicyCache, control_plane: ControlPlane, database_url: str
) -> None:
    """A key is refused soon, while the keys of a subject that changes again and again are read again; they follow."""
    await control_plane.plans.create("ada", plan_draft("free", *LIMITS))
    await control_plane.plans.create("ada", plan_draft("pro"))
    for limit in LIMITS:
        await control_plane.overrides.set("ada", TARGET, Override(limit))
    other, _ = await control_plane.keys.create("ada", key_draft("other", "pro"))
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO keys (key_id, subject, plan_id, state, description, revision, create_time, update_time) "
            "SELECT lpad(n::text, 16, '0'), 'tenant', plan_id, 'active', '', 1, now(), now() "
            "FROM plans, generate_series(1, %s) AS n WHERE name = 'free'",
            (KEYS,),
        )
    tenants = [f"{number:016}" for number in range(1, KEYS + 1)]
    await cache.get(other.key_id)
    for start in range(0, KEYS, 500):
        await asyncio.gather(*(cache.get(key_id, monotonic() + 10) for key_id in tenants[start : start + 500]))
    assert len(cache) == KEYS + 1

    for number in range(3):
        await control_plane.overrides.set("ada", TARGET, Override(replace(LIMITS[0], resource=f"{number}")))
        await control_plane.plans.update("ada", "free", PlanChanges(description=f"{number}"))
    await _wait(lambda: cache.refresh_age > 0, 0)
    began = monotonic()
    await control_plane.keys.revoke("ada", other.key_id)
    while (policy := await cache.get(other.key_id)) is None or policy.refusal is None:
        assert monotonic() - began < 2
        await asyncio.sleep(0.001)
    assert policy.refusal is Reason.KEY_REVOKED
    assert cache.refresh_age > 0, "it did not wait for the others"

    async with asyncio.timeout(120):
        await _wait(lambda: cache.refresh_age == 0, 0.01)
    policies = [await cache.get(key_id) for key_id in tenants]
    assert {policy and policy.plan_version for policy in policies} == {4}
    assert {policy and policy.considered[1].limit.resource for policy in policies} == {"2"}
    assert len({id(policy and policy.considered[1].limit) for policy in policies}) <= 2, "they share their overrides"


async def _wait(condition: Callable[[], bool], seconds: float) -> None:
    while not condition():  # noqa: ASYNC110 nothing reports it
        await asyncio.sleep(seconds)
