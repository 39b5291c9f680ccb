"""Which streams are sent which withdrawals, and how many keys they watch."""

import pytest

from decision.memory import PEPPERS, START_US, ManualClock, MemorySource, record
from ratelimit_service.decision import grant_watches as module
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.grant_watches import GrantWatches
from ratelimit_service.decision.key_resolver import KeyResolver
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.ports import Change, ChangeKind
from ratelimit_service.decision.record import KeyState

LATER_US = START_US + 1_000_000


async def test_each_stream_is_sent_its_own_withdrawals() -> None:
    """Once each, whoever else holds grants of the key; and nothing once it is closed, or has nothing of it any more."""
    watches = GrantWatches(ManualClock())
    with watches.one() as first, watches.one() as second:
        assert first.add("a", LATER_US, START_US)
        assert first.add("a", LATER_US, START_US)
        assert first.add("b", LATER_US, START_US)
        assert second.add("a", LATER_US, START_US)
        assert len(watches) == 3
        watches.changed("a")
        watches.changed("a")
        watches.changed("c")
        pending = first.pending
        assert pending.done()
        assert (first.take(), second.take(), watches.withdrawn) == (["a"], ["a"], 2)
        assert not first.pending.done()
        assert first.pending is not pending
        await watches.recompile()
        assert (first.take(), second.pending.done(), len(watches)) == (["b"], False, 0)
        assert second.add("a", LATER_US, START_US)
    watches.changed("a")
    assert (watches.withdrawn, len(watches)) == (3, 0)


async def test_what_can_be_watched_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By stream and for all; what has ended makes room; withdrawals come in messages of so many."""
    monkeypatch.setattr(module, "MAX_WATCHED", 3)
    monkeypatch.setattr(module, "MAX_WATCHED_BY_ALL", 5)
    monkeypatch.setattr(module, "MAX_NAMED", 2)
    watches = GrantWatches(ManualClock())
    with watches.one() as first, watches.one() as second:
        assert [first.add(key, LATER_US, START_US) for key in "abcd"] == [True, True, True, False]
        assert [second.add(key, LATER_US, START_US) for key in "abc"] == [True, True, False]
        assert first.add("d", LATER_US + 1, LATER_US)
        assert len(first) == 1
        assert second.add("c", LATER_US, START_US)
        second.withdraw_all()
        assert (second.take(), second.pending.done()) == (["a", "b"], True)
        assert (second.take(), second.pending.done()) == (["c"], False)


async def test_a_watch_ends_with_the_process() -> None:
    """Its stream notices at once, and so does each one that is opened later."""
    watches = GrantWatches(ManualClock())
    with watches.one() as before:
        watches.end()
        with watches.one() as after:
            assert before.ended
            assert before.pending.done()
            assert after.ended
            assert after.pending.done()


async def test_which_changes_withdraw_grants() -> None:
    """Of the key itself, be it in memory or not, of its plan, and when it is kept up to date no more; not a read."""
    source = MemorySource()
    first, second = ApiKey.generate("live"), ApiKey.generate("live")
    for key in (first, second):
        source.records[key.key_id] = record(key)
    cache = PolicyCache(source, ManualClock(), size=1)
    resolver, changed = KeyResolver(cache, PEPPERS), []
    cache.changed = changed.append
    assert await resolver.resolve(str(first))
    await cache.refresh_all()
    await cache.apply([Change(ChangeKind.KEY, first.key_id)])
    assert changed == []  # it was read again, and is the same
    source.records[first.key_id] = record(first, state=KeyState.REVOKED)
    await cache.apply([Change(ChangeKind.KEY, first.key_id)])
    await cache.apply([Change(ChangeKind.KEY, second.key_id)])
    assert changed == [first.key_id, second.key_id]
    assert await resolver.resolve(str(second))
    assert changed[2:] == [first.key_id]
    del source.records[second.key_id]
    await cache.apply([Change(ChangeKind.KEY, second.key_id)])
    assert changed[3:] == [second.key_id]
    await cache.close()
