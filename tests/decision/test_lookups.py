"""Lookups of ids that no key has: within a budget, bounded, and never in the way of the keys that exist."""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from time import monotonic

import pytest
import pytest_asyncio

from decision.memory import ManualClock, MemorySource, record
from ratelimit_service.decision import known_ids, known_keys
from ratelimit_service.decision.api_key import ApiKey, new_key_id
from ratelimit_service.decision.known_ids import KnownIds
from ratelimit_service.decision.known_keys import LIST_AFTER_SECONDS, KnownKeys
from ratelimit_service.decision.lookup_budget import LookupBudget
from ratelimit_service.decision.lookup_queue import MAX_DOUBTFUL, MAX_PER_READ
from ratelimit_service.decision.policy_cache import MAX_UNKNOWN, PolicyCache
from ratelimit_service.decision.ports import Change, ChangeKind, StoreUnavailable
from ratelimit_service.errors import LookupDeferred


class World:
    """A cache over a source in memory that has used up its budget."""

    def __init__(self, *, per_second: float = 0.001) -> None:
        self.source = MemorySource()
        self.budget = LookupBudget(per_second=per_second, burst=1)
        self.cache = PolicyCache(self.source, ManualClock(), budget=self.budget)

    def add(self) -> str:
        api_key = ApiKey.generate("live")
        self.source.records[api_key.key_id] = record(api_key)
        return api_key.key_id

    async def list_keys(self) -> None:
        self.cache._known.hurry()
        await self.cache.refresh_all()
        for _ in range(20):
            await asyncio.sleep(0)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    """A cache without budget."""
    world = World()
    world.budget.spend()
    yield world
    await world.cache.close()


def test_the_budget_is_ten_a_second() -> None:
    """Over five seconds or longer never more than 10 statements a second; the first five at once."""
    at = [0.0]
    budget = LookupBudget(now=lambda: at[0])
    made = []
    while at[0] < 60:
        if budget.wait() == 0:
            budget.spend()
            made.append(at[0])
        at[0] += 0.01
    assert sum(moment == 0 for moment in made) >= 1
    assert sum(moment < 0.05 for moment in made) == 5
    for seconds in (5, 10, 30, 60):
        assert len([moment for moment in made if moment < seconds]) <= 10 * seconds


def test_what_is_owed_is_bounded() -> None:
    """However many statements were made beyond the budget, the next one is due within a few seconds."""
    at = [0.0]
    budget = LookupBudget(now=lambda: at[0])
    for _ in range(1_000):
        budget.spend()
    assert budget.wait() < 1


def test_ids_that_were_added_are_always_known() -> None:
    """Every id that was added is known, and of a hundred thousand others at most a few."""
    ids = [new_key_id() for _ in range(20_000)]
    known = KnownIds(len(ids))
    known.add(ids)
    assert all(key_id in known for key_id in ids)
    assert sum(f"{number:016}" in known for number in range(100_000)) <= 20
    assert "\udcff" not in known


async def test_keys_are_listed_page_by_page() -> None:
    """All keys are known once they were listed, those that the feed reports meanwhile included."""
    source = MemorySource()
    for _ in range(12_000):
        api_key = ApiKey.generate("live")
        source.records[api_key.key_id] = record(api_key)
    keys = KnownKeys(source)
    keys.hurry()
    keys.load()
    await asyncio.sleep(0)
    keys.add(["added"])
    assert keys._loading is not None
    await keys._loading
    assert all(key_id in keys for key_id in [*source.records, "added"])
    await keys.close()


@pytest.mark.parametrize("call", [True, False])
async def test_a_start_reads_no_ids(*, call: bool) -> None:
    """They are listed once it serves, or a call comes for a key that is not in memory."""
    source = ManyIds(3)
    cache = PolicyCache(MemorySource(), ManualClock())
    keys = cache._known = KnownKeys(source)
    await cache.refresh_all()
    await asyncio.sleep(0.01)
    assert (source.counted, source.pages) == (0, [])
    if call:
        await cache.get("unknown")
    else:
        cache.list_keys()
    assert keys._loading is not None
    async with asyncio.timeout(LIST_AFTER_SECONDS / 2):
        await keys._loading
    assert source.ids[2] in keys
    await cache.close()


async def test_ids_are_listed_though_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that does not say when it serves."""
    monkeypatch.setattr(known_keys, "LIST_AFTER_SECONDS", 0.01)
    source = ManyIds(3)
    keys = KnownKeys(source)
    keys.load()
    assert keys._loading is not None
    await keys._loading
    assert source.ids[2] in keys


class ManyIds:
    """A source of ids that expects few, and whose second page cannot be read at first."""

    def __init__(self, count: int) -> None:
        self.ids = [f"{number:016}" for number in range(count)]
        self.counted = 0
        self.pages: list[str] = []
        self.failures = 1
        self.error: Exception = StoreUnavailable("it did not answer in time")

    async def expected_keys(self) -> int:
        self.counted += 1
        await asyncio.sleep(0)
        return 0

    async def key_ids(self, after: str, count: int) -> Sequence[str]:
        self.pages.append(after)
        await asyncio.sleep(0)
        if after and self.failures:
            self.failures -= 1
            raise self.error
        start = bisect_right(self.ids, after)
        return self.ids[start : start + count]


@pytest.mark.parametrize("error", [StoreUnavailable("it did not answer in time"), ValueError("of no use")])
async def test_a_list_that_is_interrupted_goes_on(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A page that cannot be read, for whatever reason, is read again, and not all before it."""
    monkeypatch.setattr(known_keys, "_RETRY_SECONDS", 0.01)
    source = ManyIds(12_000)
    source.error = error
    keys = KnownKeys(source)
    keys.hurry()
    keys.load()
    assert keys._loading is not None
    await keys._loading
    assert source.pages == ["", source.ids[4_999], source.ids[4_999], source.ids[9_999], source.ids[11_999]]
    assert all(key_id in keys for key_id in source.ids)


async def test_there_is_room_for_more_keys_than_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Postgres' estimate is far too low, keys are listed once more, so that made-up ids are not taken for one."""
    monkeypatch.setattr(known_ids, "_MIN_IDS", 100)
    keys = KnownKeys(ManyIds(12_000))
    keys.hurry()
    keys.load()
    assert keys._loading is not None
    await keys._loading
    assert not keys._ids.is_full
    assert sum(f"other {number}" in keys for number in range(10_000)) <= 10


async def test_new_keys_do_not_begin_the_list_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """While keys are being counted, each of many new ones leaves that alone."""
    monkeypatch.setattr(known_ids, "_MIN_IDS", 10)
    source = ManyIds(5)
    keys = KnownKeys(source)
    keys.hurry()
    keys.add([f"new {number}" for number in range(20)])
    for number in range(20):
        keys.add([f"newer {number}"])
        await asyncio.sleep(0)
    assert keys._loading is not None
    await keys._loading
    assert source.counted <= 2
    await keys.close()


async def test_keys_that_are_not_listed_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """While keys cannot be listed, from half a minute on a server is degraded, until they are."""
    monkeypatch.setattr(known_keys, "_RETRY_SECONDS", 0.01)
    now = [100.0]
    source = ManyIds(6_000)
    source.failures = 1_000_000
    keys = KnownKeys(source, lambda: now[0])
    assert keys.reason == ""
    keys.hurry()
    keys.load()
    await asyncio.sleep(0.05)
    assert keys.reason == ""
    now[0] += 40
    assert "could not be listed for 40 s" in keys.reason
    keys.load()
    assert "could not be listed for 40 s" in keys.reason
    source.failures = 0
    await keys._loading  # type: ignore[misc]
    assert keys.reason == ""


async def test_known_keys_need_no_budget(world: World) -> None:
    """Keys that were listed are read at once, however many made-up ids wait, 500 at a time."""
    ids = [world.add() for _ in range(700)]
    await world.list_keys()
    world.source.fetches.clear()
    policies = await asyncio.gather(*(world.cache.get(key_id, monotonic() + 5) for key_id in ids))
    assert all(policies)
    assert [len(fetch) for fetch in world.source.fetches] == [MAX_PER_READ, 200]


async def test_a_made_up_id_is_deferred_at_once(world: World) -> None:
    """When its turn cannot come before the deadline, a call does not even wait, and nothing is read."""
    began = monotonic()
    with pytest.raises(LookupDeferred):
        await world.cache.get(new_key_id(), monotonic() + 0.5)
    with pytest.raises(LookupDeferred):
        await world.cache.get(new_key_id())
    assert monotonic() - began < 0.3
    assert (world.source.fetches, world.cache.deferred) == ([], 2)


async def test_a_call_for_a_made_up_id_gives_up_long_before_its_deadline() -> None:
    """Half of its time before it: on answers that come late a gateway lets requests pass."""
    world = World()
    world.source.before_answer = asyncio.Event()
    began = monotonic()
    with pytest.raises(LookupDeferred):
        await world.cache.get(new_key_id(), began + 1.0)
    assert 0.4 < monotonic() - began < 0.8
    await world.cache.close()


async def test_made_up_ids_are_read_together() -> None:
    """All that wait are read by one statement when the budget has one again; more calls than two serve do not wait."""
    world = World(per_second=20)
    await world.cache.get(new_key_id())
    patient = monotonic() + 10  # on a machine that is busy, too
    calls = [asyncio.create_task(world.cache.get(new_key_id(), patient)) for _ in range(2 * MAX_DOUBTFUL)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == MAX_DOUBTFUL
    assert [len(fetch) for fetch in world.source.fetches] == [1, MAX_PER_READ, MAX_PER_READ]
    await world.cache.close()


async def test_a_key_that_is_not_listed_is_found() -> None:
    """A key that the feed has not reported yet is read within the budget, of which it uses nothing up."""
    world = World()
    ids = [world.add() for _ in range(20)]
    for key_id in ids:
        assert await world.cache.get(key_id, monotonic() + 5) is not None
    assert len(world.source.fetches) == 20
    await world.cache.close()


async def test_a_key_that_the_feed_reports_is_read_at_once() -> None:
    """A call that waits for a new key among made-up ones goes on as soon as the feed reports the key."""
    world = World(per_second=2)
    world.budget.spend()
    key_id = world.add()
    pending = asyncio.create_task(world.cache.get(key_id))
    await asyncio.sleep(0.01)
    assert not pending.done()
    began = monotonic()
    await world.cache.apply([Change(ChangeKind.KEY, key_id)])
    assert await pending is not None
    assert monotonic() - began < 0.2
    await world.cache.close()


async def test_a_store_that_does_not_answer_holds_no_call_beyond_its_deadline(world: World) -> None:
    """A call leaves before its deadline while the read goes on for the others; its result is cached."""
    key_id = world.add()
    await world.list_keys()
    world.source.before_answer = asyncio.Event()
    patient = asyncio.create_task(world.cache.get(key_id))
    began = monotonic()
    with pytest.raises(LookupDeferred):
        await world.cache.get(key_id, began + 0.05)
    assert monotonic() < began + 0.9
    world.source.before_answer.set()
    assert await patient is not None
    assert len(world.source.fetches) == 1


async def test_unknown_ids_are_bounded() -> None:
    """However many ids turn out to be unknown, MAX_UNKNOWN are remembered, the newest."""
    cache = PolicyCache(MemorySource(), ManualClock(), budget=LookupBudget(per_second=1e6, burst=1e6))
    for _ in range(MAX_UNKNOWN // MAX_PER_READ + 2):
        await asyncio.gather(*(cache.get(new_key_id()) for _ in range(MAX_PER_READ)))
    assert len(cache._unknown) == MAX_UNKNOWN
    await cache.close()
