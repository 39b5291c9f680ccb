"""The policy cache: what it reads, what it keeps, and how it follows changes."""

import asyncio
from collections.abc import AsyncIterator, Collection
from dataclasses import replace

import pytest
import pytest_asyncio

from decision.memory import ManualClock, MemoryFeed, MemorySource, burst, record
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.cache_invalidator import CacheInvalidator
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.ports import Change, ChangeKind, Fetched, StoreUnavailable
from ratelimit_service.decision.reason import Reason
from ratelimit_service.decision.record import KeyState


class World:
    """A cache with its surroundings."""

    def __init__(self, *, size: int = 1_000) -> None:
        self.clock, self.source, self.feed = ManualClock(), MemorySource(), MemoryFeed()
        self.cache = PolicyCache(self.source, self.clock, size=size, unknown_ttl=5)
        self.invalidator = CacheInvalidator(self.feed, self.cache)

    def add(self, **fields: object) -> str:
        api_key = ApiKey.generate("live")
        self.source.records[api_key.key_id] = record(api_key, **fields)
        return api_key.key_id

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


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
    """An unknown id is looked up once per negative period, whatever the number of calls."""
    for _ in range(50):
        assert await world.cache.get("nobody") is None
    assert len(world.source.fetches) == 1
    world.clock.time_us += 5_000_000
    await world.cache.get("nobody")
    assert len(world.source.fetches) == 2


async def test_a_new_key_is_known_though_it_was_asked_for_before(world: World) -> None:
    """The announcement of a new key ends its negative entry."""
    api_key = ApiKey.generate("live")
    assert await world.cache.get(api_key.key_id) is None
    world.source.records[api_key.key_id] = record(api_key)
    world.feed.announce(ChangeKind.KEY, api_key.key_id)
    await world.settle()
    assert await world.cache.get(api_key.key_id) is not None


@pytest.mark.parametrize("kind", [ChangeKind.KEY, ChangeKind.SUBJECT, ChangeKind.PLAN])
async def test_changes_are_read_again(world: World, kind: ChangeKind) -> None:
    """A change of key, subject or plan puts the new policy in force, and forgets which secrets were verified."""
    key_id = world.add()
    policy = await world.cache.get(key_id)
    assert policy is not None
    world.cache.remember(b"digest", policy)
    assert world.cache.verified(b"digest") is policy
    world.source.records[key_id] = replace(world.source.records[key_id], state=KeyState.REVOKED)
    world.feed.announce(kind, {ChangeKind.KEY: key_id, ChangeKind.SUBJECT: "acme", ChangeKind.PLAN: "free"}[kind])
    await world.settle()
    changed = await world.cache.get(key_id)
    assert changed is not None
    assert changed.refusal is not None
    assert world.cache.verified(b"digest") is None


async def test_a_change_during_a_read_is_not_lost(world: World) -> None:
    """What was read while a change came in is read again before it is used."""
    key_id = world.add()
    world.source.before_answer = asyncio.Event()
    asked = asyncio.create_task(world.cache.get(key_id))
    await world.settle()
    world.source.records[key_id] = replace(world.source.records[key_id], state=KeyState.REVOKED)
    world.feed.announce(ChangeKind.KEY, key_id)
    await world.settle()
    world.source.before_answer.set()
    policy = await asked
    assert policy is not None
    assert policy.refusal is not None


async def test_a_stream_of_changes_keeps_nobody_waiting(world: World) -> None:
    """A key whose plan changes during every read is answered after two reads, and is not kept as it was read."""
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
        assert not policy.validity.holds(world.clock)
        assert (len(world.cache), len(world.source.fetches)) == (0, reads)


async def test_changes_of_others_are_no_reason_to_read_again(world: World) -> None:
    """A key is read once, and kept, however many other keys, plans and subjects change meanwhile."""
    key_id = world.add()
    world.source.before_answer = asyncio.Event()
    asked = asyncio.create_task(world.cache.get(key_id))
    await world.settle()
    await world.cache.apply([Change(kind, "other") for kind in ChangeKind])
    world.source.before_answer.set()
    assert await asyncio.wait_for(asked, 1) is await world.cache.get(key_id)
    assert len(world.source.fetches) == 1


async def test_a_call_after_a_change_waits_for_the_next_read(world: World) -> None:
    """A call that comes when a change was applied does not get what was read before it."""
    key_id = world.add()
    world.source.before_answer = asyncio.Event()
    before = asyncio.create_task(world.cache.get(key_id))
    await world.settle()
    world.source.records[key_id] = replace(world.source.records[key_id], state=KeyState.REVOKED)
    await world.cache.apply([Change(ChangeKind.KEY, key_id)])
    after = asyncio.create_task(world.cache.get(key_id))
    await world.settle()
    world.source.before_answer.set()
    policies = await asyncio.wait_for(asyncio.gather(before, after), 1)
    assert [policy and policy.refusal for policy in policies] == [Reason.KEY_REVOKED] * 2


async def test_a_change_during_the_first_reading_of_all_is_not_lost() -> None:
    """A follower that begins hears of what changed while it read everything again, which may be older."""
    world = World()
    key_id = world.add()
    await world.cache.get(key_id)
    world.source.before_answer = asyncio.Event()
    following = asyncio.create_task(world.invalidator.run())
    await world.settle()
    assert len(world.source.fetches) == 2  # what it reads again has been looked up, and not answered yet
    world.source.records[key_id] = replace(world.source.records[key_id], state=KeyState.REVOKED)
    world.feed.announce(ChangeKind.KEY, key_id)
    world.source.before_answer.set()
    await world.settle()
    policy = await world.cache.get(key_id)
    following.cancel()
    assert policy is not None
    assert policy.refusal is not None


async def test_known_keys_stay_in_force_while_postgres_is_away(world: World) -> None:
    """With the source down, known keys are answered from memory, unknown ones raise, and all is well afterwards."""
    known, unseen = world.add(), world.add()
    await world.cache.get(known)
    world.source.down = True
    assert await world.cache.get(known) is not None
    with pytest.raises(StoreUnavailable):
        await world.cache.get(unseen)
    world.source.down = False
    assert await world.cache.get(unseen) is not None


async def test_an_unreadable_row_keeps_the_last_good_policy(world: World) -> None:
    """A row that makes no policy is refused: the last good one stays, and a key never read cannot be decided."""
    known, unseen = world.add(), world.add()
    policy = await world.cache.get(known)
    world.source.unreadable = {known, unseen}
    world.feed.announce(ChangeKind.PLAN, "free")
    await world.settle()
    assert await world.cache.get(known) is policy
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="not valid"):
            await world.cache.get(unseen)
    assert world.cache.unreadable == 2


async def test_size_is_kept() -> None:
    """No more than SIZE policies and SIZE unknown ids are kept, and those in use are kept longest."""
    world = World(size=10)
    busy = world.add()
    for _ in range(100):
        await world.cache.get(busy)
        await world.cache.get(world.add())
        await world.cache.get(ApiKey.generate("live").key_id)
    assert len(world.cache) == 10
    assert len(world.cache._unknown) == 10
    assert sum(busy in fetch for fetch in world.source.fetches) == 1


async def test_follow_survives_an_outage(world: World) -> None:
    """When the feed fails it is tried again, and nothing that changed meanwhile is missed."""
    key_id = world.add()
    await world.cache.get(key_id)
    world.feed.down = True
    world.feed.announce(ChangeKind.PLAN, "else")
    await world.settle()
    assert not world.invalidator.current
    world.source.records[key_id] = replace(world.source.records[key_id], limits=(burst(99),))
    world.feed.announce(ChangeKind.KEY, key_id)
    world.feed.down = False
    await asyncio.sleep(0.6)
    policy = await world.cache.get(key_id)
    assert world.invalidator.current
    assert policy is not None
    assert policy.rules[0].limit.capacity == 99


async def test_a_cache_that_is_closed_keeps_nobody_waiting(world: World) -> None:
    """What is being read is given up, and who waits for it, or for its turn, is told that the server stops."""
    world.source.before_answer = asyncio.Event()
    asked = [asyncio.create_task(world.cache.get(world.add()))]
    await world.settle()
    asked.append(asyncio.create_task(world.cache.get(world.add())))
    await world.settle()
    await world.cache.close()
    for one in asked:
        with pytest.raises(StoreUnavailable, match="stopping"):
            await one
    assert len(world.source.fetches) == 1
