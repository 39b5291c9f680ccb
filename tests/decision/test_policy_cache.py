"""The policy cache: what it reads, what it caches, and how it follows changes."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any

import pytest
import pytest_asyncio

from decision.memory import START_US, ManualClock, MemoryFeed, MemorySource, burst, record
from ratelimit_service.decision import policy_cache
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.cache_invalidator import CacheInvalidator
from ratelimit_service.decision.lookup_budget import LookupBudget
from ratelimit_service.decision.policy_cache import _SECOND_CHANCES, MAX_DIGESTS, PolicyCache
from ratelimit_service.decision.ports import Change, ChangeKind, Fetched, StoreUnavailable
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.decision.record import KeyState, PartialRecord, RecordFields, SecretHash


class World:
    """A cache over a source and a feed in memory."""

    def __init__(self, *, size: int = 1_000) -> None:
        self.clock, self.source, self.feed = ManualClock(), MemorySource(), MemoryFeed()
        ample = LookupBudget(per_second=1e6, burst=1e6)
        self.cache = PolicyCache(self.source, self.clock, size=size, unknown_ttl=5, budget=ample)
        self.invalidator = CacheInvalidator(self.feed, self.cache)

    def add(self, **fields: object) -> str:
        api_key = ApiKey.generate("live")
        self.source.records[api_key.key_id] = record(api_key, **fields)
        return api_key.key_id

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        if self.source.before_answer is None and not self.source.down:
            async with asyncio.timeout(5):
                while self.cache.refresh_age > 0:  # noqa: ASYNC110 what is awaited is the cache's own
                    await asyncio.sleep(0.001)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    """A cache that follows its feed."""
    world = World()
    following = asyncio.create_task(world.invalidator.run())
    await world.settle()
    yield world
    following.cancel()


async def test_one_read_for_many_callers(world: World) -> None:
    """A thousand first calls of ten keys are one read of ten keys."""
    ids = [world.add() for _ in range(10)]
    policies = await asyncio.gather(*(world.cache.get(ids[n % 10]) for n in range(1_000)))
    assert [policy.key_id for policy in policies if policy] == [ids[n % 10] for n in range(1_000)]
    assert [sorted(fetch) for fetch in world.source.fetches] == [sorted(ids)]


async def test_unknown_keys_are_read_once_per_period(world: World) -> None:
    """An unknown id is read once per `unknown_ttl`, whatever the number of calls."""
    for _ in range(50):
        assert await world.cache.get("unknown") is None
    assert len(world.source.fetches) == 1
    world.clock.time_us += 5_000_000
    await world.cache.get("unknown")
    assert len(world.source.fetches) == 2


async def test_a_new_key_is_known_though_it_was_cached_as_unknown(world: World) -> None:
    """The change of a new key removes its negative entry."""
    api_key = ApiKey.generate("live")
    assert await world.cache.get(api_key.key_id) is None
    world.source.records[api_key.key_id] = record(api_key)
    world.feed.announce(ChangeKind.KEY, api_key.key_id)
    await world.settle()
    assert await world.cache.get(api_key.key_id) is not None


@pytest.mark.parametrize("kind", [ChangeKind.KEY, ChangeKind.SUBJECT, ChangeKind.PLAN])
async def test_changes_are_read_again(world: World, kind: ChangeKind) -> None:
    """A change of key, subject or plan puts the new policy in force, and drops the verified secrets."""
    key_id = world.add()
    policy = await world.cache.get(key_id)
    assert policy is not None
    world.cache.add_verified(b"digest", policy)
    assert world.cache.verified(b"digest") is policy
    world.source.records[key_id] = world.source.records[key_id].having(state=KeyState.REVOKED)
    world.feed.announce(kind, {ChangeKind.KEY: key_id, ChangeKind.SUBJECT: "acme", ChangeKind.PLAN: "free"}[kind])
    await world.settle()
    changed = await world.cache.get(key_id)
    assert changed is not None
    assert changed.refusal is not None
    assert world.cache.verified(b"digest") is None
    world.cache.add_verified(b"digest", policy)
    assert world.cache.verified(b"digest") is None, "verified under a policy that is no longer in force"
    world.cache.add_verified(b"digest", changed)
    assert world.cache.verified(b"digest") is changed


async def test_a_change_during_a_read_is_not_lost(world: World) -> None:
    """A key that changes while it is read is read again before it is used, and then it is cached."""
    key_id = world.add()
    world.source.before_answer = asyncio.Event()
    pending = asyncio.create_task(world.cache.get(key_id))
    await world.settle()
    world.source.records[key_id] = world.source.records[key_id].having(state=KeyState.REVOKED)
    world.feed.announce(ChangeKind.KEY, key_id)
    await world.settle()
    world.source.before_answer.set()
    policy = await pending
    assert policy is not None
    assert policy.refusal is not None
    assert await world.cache.get(key_id) is policy


async def test_a_refresh_during_a_read_is_not_lost(world: World) -> None:
    """A key that is read while everything is read again is read once more: its change may have been missed."""
    key_id = world.add()
    world.source.before_answer = asyncio.Event()
    pending = asyncio.create_task(world.cache.get(key_id))
    await world.settle()
    world.source.records[key_id] = world.source.records[key_id].having(state=KeyState.REVOKED)
    await world.cache.refresh_all()
    world.source.before_answer.set()
    policy = await asyncio.wait_for(pending, 1)
    assert policy is not None
    assert policy.refusal is Reason.KEY_REVOKED


async def test_a_change_of_many_keys_reaches_all(world: World) -> None:
    """When a plan changes, all its keys are read again, at most 100 at a time, those that changed themselves first."""
    ids = [world.add() for _ in range(250)]
    await asyncio.gather(*map(world.cache.get, ids))
    for key_id in ids:
        world.source.records[key_id] = world.source.records[key_id].having(state=KeyState.REVOKED)
    world.source.fetches.clear()
    await world.cache.apply([Change(ChangeKind.PLAN, "free"), Change(ChangeKind.KEY, ids[-1])])
    policy = await world.cache.get(ids[-1])
    assert policy is not None
    assert policy.refusal is Reason.KEY_REVOKED
    await world.settle()
    assert [len(fetch) for fetch in world.source.fetches] == [1, 100, 100, 50]
    assert world.source.fetches[0] == [ids[-1]]
    policies = await asyncio.gather(*map(world.cache.get, ids))
    assert {policy and policy.refusal for policy in policies} == {Reason.KEY_REVOKED}


async def test_a_revocation_waits_for_no_other_key(world: World) -> None:
    """While the keys of a plan are read again, which takes long, keys that change are read, and calls answered."""
    ids = [world.add() for _ in range(250)]
    await asyncio.gather(*map(world.cache.get, ids))
    world.source.before_answer = slow = asyncio.Event()
    world.feed.announce(ChangeKind.PLAN, "free")
    await world.settle()
    assert world.cache.refresh_age > 0
    world.source.before_answer = None
    for key_id in (ids[0], ids[-1]):  # of those that are being read, and of those that are not yet
        world.source.records[key_id] = world.source.records[key_id].having(state=KeyState.REVOKED)
        world.feed.announce(ChangeKind.KEY, key_id)
    for _ in range(20):
        await asyncio.sleep(0)
    refused = [await world.cache.get(key_id) for key_id in (ids[0], ids[-1])]
    assert [policy and policy.refusal for policy in refused] == [Reason.KEY_REVOKED] * 2
    assert world.cache.refresh_age > 0
    slow.set()
    await world.settle()
    refused = [await world.cache.get(key_id) for key_id in (ids[0], ids[-1])]
    assert [policy and policy.refusal for policy in refused] == [Reason.KEY_REVOKED] * 2


async def test_a_change_that_concerns_no_cached_key_reads_nothing(world: World) -> None:
    """Changes of subjects and plans without cached keys cause no read, however many there are."""
    await world.cache.get(world.add())
    world.source.fetches.clear()
    await world.cache.apply([Change(kind, f"other{n}") for kind in ChangeKind for n in range(1_000)])
    await world.settle()
    assert world.source.fetches == []


async def test_a_refresh_goes_on_after_an_outage(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of a plan that cannot be read keep their policy, and are read again once that is possible."""
    monkeypatch.setattr(policy_cache, "_RETRY_SECONDS", 0.01)
    key_id = world.add()
    await world.cache.get(key_id)
    world.source.records[key_id] = world.source.records[key_id].having(plan_version=2)
    world.source.down = True
    await world.cache.apply([Change(ChangeKind.PLAN, "free")])
    await world.settle()
    policy = await world.cache.get(key_id)
    assert policy is not None
    assert (policy.plan_version, world.cache.refresh_age > 0) == (1, True)
    world.source.down = False
    await world.settle()
    policy = await world.cache.get(key_id)
    assert policy is not None
    assert (policy.plan_version, world.cache.refresh_age) == (2, 0)


async def test_a_refresh_that_fails_forgets_no_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error that nobody expected, the keys of every plan and subject that changed are still read again."""
    monkeypatch.setattr(policy_cache, "_RETRY_SECONDS", 0.01)
    ids = [world.add() for _ in range(2)]
    world.source.records[ids[1]] = world.source.records[ids[1]].having(plan="pro")
    await asyncio.gather(*map(world.cache.get, ids))
    for key_id in ids:
        world.source.records[key_id] = world.source.records[key_id].having(plan_version=2)
    fetch, failures = world.source.fetch, [RuntimeError("a mistake"), RuntimeError("again")]

    async def fail_twice(key_ids: Collection[str]) -> Fetched:
        if failures:
            raise failures.pop()
        return await fetch(key_ids)

    world.source.fetch = fail_twice  # type: ignore[method-assign]
    for plan in ("free", "pro"):
        await world.cache.apply([Change(ChangeKind.PLAN, plan)])
        await asyncio.sleep(0.001)
    await world.settle()
    policies = await asyncio.gather(*map(world.cache.get, ids))
    assert [policy and policy.plan_version for policy in policies] == [2, 2]


async def test_a_stream_of_changes_blocks_no_call(world: World) -> None:
    """A key with a plan that changes during every read is returned after two reads, and is not cached."""
    key_id = world.add()
    plan, fetch = world.source.records[key_id].plan, world.source.fetch

    async def fetch_and_change(key_ids: Collection[str]) -> Fetched:
        fetched = await fetch(key_ids)
        await world.cache.apply([Change(ChangeKind.PLAN, plan)])
        return fetched

    world.source.fetch = fetch_and_change  # type: ignore[method-assign]
    for reads in (2, 4, 6):
        policy = await asyncio.wait_for(world.cache.get(key_id), 1)
        assert policy is not None
        assert not policy.validity.is_current(world.clock)
        assert (len(world.cache), len(world.source.fetches)) == (0, reads)


async def test_a_stream_of_changes_starves_no_policy(world: World) -> None:
    """While a plan changes with every read, each of its keys gets a newer version with each pass over them."""
    ids = [world.add() for _ in range(250)]
    await asyncio.gather(*map(world.cache.get, ids))
    fetch, version = world.source.fetch, 1

    async def fetch_and_change(key_ids: Collection[str]) -> Fetched:
        nonlocal version
        fetched = await fetch(key_ids)
        version += 1
        for key_id in ids:
            world.source.records[key_id] = world.source.records[key_id].having(plan_version=version)
        await world.cache.apply([Change(ChangeKind.PLAN, "free")])
        return fetched

    world.source.fetch = fetch_and_change  # type: ignore[method-assign]
    await world.cache.apply([Change(ChangeKind.PLAN, "free")])
    oldest = []
    async with asyncio.timeout(30):
        while version < 60:
            await asyncio.sleep(0)
            policies = await asyncio.gather(*map(world.cache.get, ids))
            oldest.append(version - min(policy.plan_version for policy in policies if policy))
    assert max(oldest) <= 8, "reads, of which three are a pass over all keys"
    world.source.fetch = fetch  # type: ignore[method-assign]


async def test_other_changes_cause_no_second_read(world: World) -> None:
    """A key is read once, and cached, however many other keys, plans and subjects change meanwhile."""
    key_id = world.add()
    world.source.before_answer = asyncio.Event()
    pending = asyncio.create_task(world.cache.get(key_id))
    await world.settle()
    await world.cache.apply([Change(kind, "other") for kind in ChangeKind])
    world.source.before_answer.set()
    assert await asyncio.wait_for(pending, 1) is await world.cache.get(key_id)
    assert len(world.source.fetches) == 1


async def test_a_call_after_a_change_waits_for_the_next_read(world: World) -> None:
    """A call that comes after a change was applied does not get what was read before it."""
    key_id = world.add()
    world.source.before_answer = asyncio.Event()
    before = asyncio.create_task(world.cache.get(key_id))
    await world.settle()
    world.source.records[key_id] = world.source.records[key_id].having(state=KeyState.REVOKED)
    await world.cache.apply([Change(ChangeKind.KEY, key_id)])
    after = asyncio.create_task(world.cache.get(key_id))
    await world.settle()
    world.source.before_answer.set()
    policies = await asyncio.wait_for(asyncio.gather(before, after), 1)
    assert [policy and policy.refusal for policy in policies] == [Reason.KEY_REVOKED] * 2


async def test_a_call_after_a_second_change_waits_for_the_next_read(world: World) -> None:
    """A call that comes after a key changed for the second time, while it was read again, does not get that read."""
    key_id = world.add()
    fetch, late = world.source.fetch, []

    async def fetch_and_change(key_ids: Collection[str]) -> Fetched:
        fetched = await fetch(key_ids)
        reads = len(world.source.fetches)
        if reads <= 2:
            world.source.records[key_id] = world.source.records[key_id].having(plan_version=reads + 1)
            await world.cache.apply([Change(ChangeKind.KEY, key_id)])
        if reads == 2:
            late.append(asyncio.create_task(world.cache.get(key_id)))
            await world.settle()
        return fetched

    world.source.fetch = fetch_and_change  # type: ignore[method-assign]
    await asyncio.wait_for(world.cache.get(key_id), 1)
    policy = await asyncio.wait_for(late[0], 1)
    assert policy is not None
    assert policy.plan_version == 3


async def test_a_change_during_the_first_refresh_is_not_lost() -> None:
    """An invalidator that starts gets the changes made while it read everything again, which may be older."""
    world = World()
    key_id = world.add()
    await world.cache.get(key_id)
    world.source.before_answer = asyncio.Event()
    following = asyncio.create_task(world.invalidator.run())
    await world.settle()
    assert len(world.source.fetches) == 2  # the refresh has taken its snapshot, and not returned yet
    world.source.records[key_id] = world.source.records[key_id].having(state=KeyState.REVOKED)
    world.feed.announce(ChangeKind.KEY, key_id)
    world.source.before_answer.set()
    await world.settle()
    policy = await world.cache.get(key_id)
    following.cancel()
    assert policy is not None
    assert policy.refusal is not None


async def test_changes_that_the_feed_has_dropped_are_not_missed(world: World) -> None:
    """A reader that was away until changes were dropped from the feed reads all that it holds again, and goes on."""
    held, other = world.add(), world.add()
    for key_id in (held, other):
        await world.cache.get(key_id)
    world.source.records[held] = world.source.records[held].having(state=KeyState.REVOKED)
    world.feed.changes += [Change(ChangeKind.KEY, held)] * 3
    world.feed.dropped = 3
    world.feed.announce(ChangeKind.KEY, other)
    await world.settle()
    policy = await world.cache.get(held)
    assert policy is not None
    assert policy.refusal is Reason.KEY_REVOKED
    world.source.records[other] = world.source.records[other].having(state=KeyState.REVOKED)
    world.feed.announce(ChangeKind.KEY, other)
    await world.settle()
    later = await world.cache.get(other)
    assert later is not None
    assert later.refusal is Reason.KEY_REVOKED


async def test_known_keys_stay_in_force_while_postgres_is_down(world: World) -> None:
    """With the source down, known keys come from memory and unknown ones raise; afterwards both are returned."""
    known, unseen = world.add(), world.add()
    await world.cache.get(known)
    world.source.down = True
    assert await world.cache.get(known) is not None
    with pytest.raises(StoreUnavailable):
        await world.cache.get(unseen)
    world.source.down = False
    assert await world.cache.get(unseen) is not None


async def test_an_unreadable_row_keeps_the_last_valid_policy(world: World) -> None:
    """Of a row that is not valid the last valid policy stays in force, and a key that never had one is denied."""
    known, unseen = world.add(), world.add()
    policy = await world.cache.get(known)
    world.source.unreadable = {known, unseen}
    world.feed.announce(ChangeKind.PLAN, "free")
    await world.settle()
    assert await world.cache.get(known) is policy
    for _ in range(3):
        denied = await world.cache.get(unseen)
        assert denied is not None
        assert (denied.refusal, denied.refusal_source) == (Reason.DEGRADED_DENIED, Source.DEGRADED)
        assert not denied.validity.is_current(world.clock), "what is computed from it would be kept"
    assert world.cache.unreadable == 2


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"state": KeyState.REVOKED}, Reason.KEY_REVOKED),
        ({"state": KeyState.SUSPENDED}, Reason.KEY_SUSPENDED),
        ({"expires_us": START_US}, Reason.KEY_EXPIRED),
    ],
)
async def test_a_refusal_is_in_force_whatever_else_cannot_be_read(
    world: World, change: Mapping[str, Any], refusal: Reason
) -> None:
    """A key that is revoked, suspended or expired is refused though its plan cannot be read, known before or not."""
    known, unseen = world.add(), world.add()
    assert await world.cache.get(known) is not None
    for key_id in (known, unseen):
        world.source.records[key_id] = world.source.records[key_id].having(**change)
        world.source.unreadable.add(key_id)
        world.feed.announce(ChangeKind.KEY, key_id)
    await world.settle()
    for key_id in (known, unseen):
        policy = await world.cache.get(key_id)
        assert policy is not None
        assert (policy.refusal, policy.refusal_source) == (refusal, Source.POLICY)


async def test_secrets_that_are_gone_end_whatever_else_cannot_be_read(world: World) -> None:
    """A secret that was deleted is not accepted any more; one whose row cannot be read stays as it was."""
    key_id = world.add()
    before = world.source.records[key_id]
    gone, kept, new = (SecretHash(1, bytes([n]) * 32) for n in range(3))
    world.source.records[key_id] = before.having(secrets=(gone, kept))
    policy = await world.cache.get(key_id)
    assert policy is not None
    partial = PartialRecord(key_id, RecordFields(secrets=(new,)), frozenset({kept.digest}))
    assert partial.over(world.source.records[key_id]).secrets == (new, kept)
    assert not partial.over(world.source.records[key_id]).hides_secrets
    assert partial.over(before).secrets == (new,)
    assert partial.over(before).hides_secrets, "what is kept of is not known"


async def test_a_row_that_was_repaired_is_read_without_a_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys with rows that are not valid are read again by and by, a hundred at a time, and all once one is valid."""
    monkeypatch.setattr(policy_cache, "_RECHECK_SECONDS", 0.01)
    ids = [world.add() for _ in range(250)]
    await asyncio.gather(*map(world.cache.get, ids))
    world.source.unreadable = set(ids)
    world.feed.announce(ChangeKind.PLAN, "free")
    await world.settle()
    world.source.fetches.clear()
    await asyncio.sleep(0.1)
    assert {len(fetch) for fetch in world.source.fetches} == {100}
    world.source.unreadable.clear()
    for key_id in ids:
        world.source.records[key_id] = world.source.records[key_id].having(plan_version=2)
    versions = {1}
    async with asyncio.timeout(5):
        while versions != {2}:
            await asyncio.sleep(0.01)
            policies = await asyncio.gather(*map(world.cache.get, ids))
            versions = {policy.plan_version for policy in policies if policy}
    world.source.fetches.clear()
    await asyncio.sleep(0.1)
    assert world.source.fetches == []


async def test_size_is_bounded() -> None:
    """At most `size` policies and `size` unknown ids are cached, and those in use longest."""
    world = World(size=10)
    busy = world.add()
    for _ in range(100):
        await world.cache.get(busy)
        await world.cache.get(world.add())
        await world.cache.get(ApiKey.generate("live").key_id)
    assert len(world.cache) == 10
    assert len(world.cache._unknown) == 10
    assert sum(busy in fetch for fetch in world.source.fetches) == 1


async def test_room_is_made_in_bounded_time() -> None:
    """While all policies are in use, one that is read passes over a few of them, not over all in one go."""
    size = 4 * _SECOND_CHANCES
    world = World(size=size)
    ids = [world.add() for _ in range(size)]
    policies = [policy for policy in await asyncio.gather(*map(world.cache.get, ids)) if policy]
    for policy in policies:
        policy.validity.used = True
    await world.cache.get(world.add())
    assert len(world.cache) == len(policies) == size
    assert sum(not policy.validity.used for policy in policies) == _SECOND_CHANCES


async def test_verified_secrets_of_a_key_are_bounded(world: World) -> None:
    """Of the secrets that were verified for one key the newest are remembered, at most MAX_DIGESTS."""
    policy = await world.cache.get(world.add())
    assert policy is not None
    digests = [b"%d" % number for number in range(1_000)]
    for digest in digests:
        world.cache.add_verified(digest, policy)
    remembered = [digest for digest in digests if world.cache.verified(digest) is policy]
    assert remembered == digests[-MAX_DIGESTS:]
    assert len(world.cache._by_digest) == MAX_DIGESTS


async def test_a_policy_found_by_its_secret_is_in_use() -> None:
    """A policy stays cached as long as calls with its secret find it, however many other keys are read."""
    world = World(size=10)
    busy = await world.cache.get(world.add())
    assert busy is not None
    world.cache.add_verified(b"busy", busy)
    for _ in range(100):
        assert world.cache.verified(b"busy") is busy
        await world.cache.get(world.add())


async def test_the_invalidator_survives_an_outage(world: World) -> None:
    """When the feed fails it is read again, and no change made meanwhile is missed."""
    key_id = world.add()
    await world.cache.get(key_id)
    world.feed.down = True
    world.feed.announce(ChangeKind.PLAN, "else")
    await world.settle()
    assert not world.invalidator.current
    world.source.records[key_id] = world.source.records[key_id].having(limits=(burst(99),))
    world.feed.announce(ChangeKind.KEY, key_id)
    world.feed.down = False
    await asyncio.sleep(0.6)
    policy = await world.cache.get(key_id)
    assert world.invalidator.current
    assert policy is not None
    assert policy.rules[0].limit.capacity == 99


async def test_close_fails_the_waiting_calls(world: World) -> None:
    """Closing cancels the read, and the calls that wait for it, or for the next one, fail because the server stops."""
    world.source.before_answer = asyncio.Event()
    pending = [asyncio.create_task(world.cache.get(world.add()))]
    await world.settle()
    pending.append(asyncio.create_task(world.cache.get(world.add())))
    await world.settle()
    await world.cache.close()
    for call in pending:
        with pytest.raises(StoreUnavailable, match="stopping"):
            await call
    assert len(world.source.fetches) == 1
