"""Whatever the order of changes and reads, the cache ends in the newest state, and a revoked key stays revoked."""

import asyncio
from collections.abc import Collection
from contextlib import suppress
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from decision.memory import ManualClock, MemoryFeed, MemorySource, record
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.cache_invalidator import CacheInvalidator
from ratelimit_service.decision.lookup_budget import LookupBudget
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.ports import ChangeKind, Fetched, StoreUnavailable
from ratelimit_service.decision.record import KeyState

NAMES = ("a", "b", "c")


class SlowSource(MemorySource):
    """A source that takes its snapshot, and returns it, after any number of turns of the event loop."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random

    async def fetch(self, key_ids: Collection[str]) -> Fetched:
        for _ in range(self._random.randrange(6)):
            await asyncio.sleep(0)
        fetched = await super().fetch(key_ids)
        for _ in range(self._random.randrange(12)):
            await asyncio.sleep(0)
        return fetched


class Steps:
    """Changes of 12 keys with 3 subjects on 3 plans. The version of a record counts its changes, revocations apart."""

    def __init__(self, random: Random, size: int) -> None:
        self.random, self.source, self.feed = random, SlowSource(random), MemoryFeed()
        ample = LookupBudget(per_second=1e6, burst=1e6)
        self.cache = PolicyCache(self.source, ManualClock(), size=size, budget=ample)
        self.invalidator = CacheInvalidator(self.feed, self.cache)
        self.versions = 1
        for _ in range(12):
            made = record(ApiKey.generate("live"))
            self.source.records[made.key_id] = made.having(subject=random.choice(NAMES), plan=random.choice(NAMES))
        self.ids = list(self.source.records)

    def change_key(self) -> None:
        """Revoke a key, or move it to any subject and plan."""
        key_id, records = self.random.choice(self.ids), self.source.records
        if self.random.random() < 0.3:
            records[key_id] = records[key_id].having(state=KeyState.REVOKED)
        else:
            moved = {"subject": self.random.choice(NAMES), "plan": self.random.choice(NAMES)}
            records[key_id] = records[key_id].having(plan_version=self._next(), **moved)  # type: ignore[arg-type]
        self.feed.announce(ChangeKind.KEY, key_id)

    def change_many(self) -> None:
        """Change a subject or plan, hence all its keys."""
        kind, name = self.random.choice((ChangeKind.SUBJECT, ChangeKind.PLAN)), self.random.choice(NAMES)
        version = self._next()
        for key_id, found in self.source.records.items():
            if name == (found.subject if kind is ChangeKind.SUBJECT else found.plan):
                self.source.records[key_id] = found.having(plan_version=version)
        self.feed.announce(kind, name)

    async def get_any(self) -> None:
        """Use some key."""
        with suppress(StoreUnavailable):
            await self.cache.get(self.random.choice(self.ids))

    def _next(self) -> int:
        self.versions += 1
        return self.versions


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([4, 100]), st.booleans())
def test_any_order_ends_in_the_newest_state(random: Random, size: int, missed: bool) -> None:
    """After any changes, reads, evictions, outages and missed changes, each policy is that of the newest record."""
    asyncio.run(_try(random, size, missed=missed))


async def _try(random: Random, size: int, *, missed: bool) -> None:
    steps = Steps(random, size)
    following = asyncio.create_task(steps.invalidator.run())
    calls = []
    for _ in range(random.randrange(1, 60)):
        step = random.randrange(8)
        if step == 0:
            steps.change_key()
        elif step == 1:
            steps.change_many()
        elif step < 5:
            calls.append(asyncio.create_task(steps.get_any()))
        else:
            await asyncio.sleep(0)
    if missed:
        steps.feed.dropped = len(steps.feed.changes)
        steps.feed.announce(ChangeKind.KEY, steps.ids[0])
        steps.change_many()
    await asyncio.gather(*calls)
    for _ in range(60):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        while steps.cache.refresh_age > 0:  # noqa: ASYNC110 what is awaited is the cache's own
            await asyncio.sleep(0)
    for key_id in steps.ids:
        policy, newest = await steps.cache.get(key_id), steps.source.records[key_id]
        assert policy is not None
        assert (policy.plan_version, policy.subject, policy.plan) == (newest.plan_version, newest.subject, newest.plan)
        assert (policy.refusal is not None) == (newest.state is KeyState.REVOKED)
    following.cancel()
    await steps.cache.close()
