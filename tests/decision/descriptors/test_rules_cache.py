"""The rules cache: what is read, what stays in force, and how changes arrive."""

import asyncio

import pytest

from decision.descriptors.world import MemoryRules, node, quota
from decision.memory import ManualClock, MemoryFeed, MemorySource, record
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.cache_invalidator import CacheInvalidator
from ratelimit_service.decision.descriptors import rules_cache
from ratelimit_service.decision.descriptors.rules import DomainRules
from ratelimit_service.decision.descriptors.rules_cache import RulesCache
from ratelimit_service.decision.descriptors.tree import UNREADABLE_RULES
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.ports import Change, ChangeKind, StoreUnavailable


def rules(domain: str, amount: int) -> DomainRules:
    """A domain with one quota."""
    return DomainRules(domain, (node("a", "", quota(amount)),))


def amount(cache: RulesCache, domain: str) -> int | None:
    """The amount of the domain's quota, None when the domain is unknown."""
    tree = cache.get(domain)
    return None if tree is None else tree.match((("a", "1"),)).limits[0].bucket.limit.capacity


def changed(*domains: str) -> list[Change]:
    """Changes of these domains, among others."""
    changes = [Change(ChangeKind.PLAN, "free"), Change(ChangeKind.KEY, "x")]
    return [*changes, *(Change(ChangeKind.DOMAIN, domain) for domain in domains)]


async def test_everything_is_read_once() -> None:
    """All domains are read at once, and later only those that have changed; changes of other kinds read nothing."""
    source = MemoryRules(rules("one", 1), rules("two", 2))
    cache = RulesCache(source)
    await cache.refresh_all()
    assert (amount(cache, "one"), amount(cache, "two"), amount(cache, "three")) == (1, 2, None)
    source.rules = {"two": rules("two", 22), "three": rules("three", 3)}
    await cache.apply(changed())
    assert source.fetches == [None]
    await cache.apply(changed("two", "three"))
    assert source.fetches == [None, ["three", "two"]]
    assert (amount(cache, "one"), amount(cache, "two"), amount(cache, "three")) == (1, 22, 3)
    await cache.apply(changed("one"))
    assert amount(cache, "one") is None
    assert len(cache) == 2


async def test_a_domain_that_is_gone_at_the_next_refresh() -> None:
    """Rules removed while no change was received are no longer in force, nor is what was computed from them."""
    source = MemoryRules(rules("one", 1), rules("two", 2))
    cache = RulesCache(source)
    await cache.refresh_all()
    removed = cache.get("one")
    del source.rules["one"]
    await cache.refresh_all()
    assert (amount(cache, "one"), amount(cache, "two")) == (None, 2)
    assert not removed.validity.is_current(ManualClock())


async def test_unknown_until_read() -> None:
    """Before the first read the cache does not report a domain as without rules."""
    source = MemoryRules(rules("one", 1))
    cache = RulesCache(source)
    source.down = True
    with pytest.raises(StoreUnavailable):
        await cache.refresh_all()
    with pytest.raises(StoreUnavailable):
        cache.get("one")
    source.down = False
    await cache.refresh_all()
    assert amount(cache, "one") == 1


async def test_rules_stay_while_postgres_is_down() -> None:
    """Rules that were read stay in force while the source fails."""
    source = MemoryRules(rules("one", 1))
    cache = RulesCache(source)
    await cache.refresh_all()
    source.down = True
    with pytest.raises(StoreUnavailable):
        await cache.apply(changed("one"))
    assert amount(cache, "one") == 1


async def test_invalid_rows_do_not_replace_valid_rules() -> None:
    """Invalid rows leave the last valid rules in force; without any the domain is not reported as without rules."""
    source = MemoryRules(rules("one", 1))
    cache = RulesCache(source)
    await cache.refresh_all()
    source.unreadable = {"one", "bad"}
    await cache.apply(changed("one", "bad"))
    assert amount(cache, "one") == 1
    assert cache.unreadable == 2
    for domains in ((), ("one",), ("other",)):  # a later change of another domain makes no difference
        await cache.apply(changed(*domains))
        assert cache.get("bad") is UNREADABLE_RULES
    source.unreadable = set()
    source.rules["bad"] = rules("bad", 5)
    await cache.apply(changed("bad"))
    assert amount(cache, "bad") == 5
    await cache.close()


async def test_rules_that_were_repaired_are_read_without_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Domains with rows that are not valid are read again by and by, and no other."""
    monkeypatch.setattr(rules_cache, "_RECHECK_SECONDS", 0.01)
    source = MemoryRules(rules("one", 1), rules("two", 2))
    cache = RulesCache(source)
    await cache.refresh_all()
    source.unreadable, source.rules["one"] = {"one"}, rules("one", 9)
    await cache.apply(changed("one"))
    assert amount(cache, "one") == 1
    source.fetches.clear()
    source.unreadable.clear()
    await asyncio.sleep(0.2)
    assert amount(cache, "one") == 9
    assert source.fetches == [["one"]]
    await cache.close()


async def test_a_domain_whose_row_is_gone_keeps_its_rules() -> None:
    """Rules end when their domain is deleted, which leaves a row; a row that is gone is reported, and lifts nothing."""
    source = MemoryRules(rules("one", 1), rules("two", 2), rules("three", 3))
    cache = RulesCache(source)
    await cache.refresh_all()
    source.missing = {"one", "two", "never"}
    source.rules.clear()
    await cache.apply(changed("one", "never"))
    assert (amount(cache, "one"), cache.get("never")) == (1, None)
    await cache.refresh_all()
    assert (amount(cache, "one"), amount(cache, "two"), cache.get("three")) == (1, 2, None)
    assert sorted(source.reported) == ["one", "one", "two"]
    await cache.close()


async def test_one_invalidator_for_policies_and_rules() -> None:
    """One feed keeps both caches up to date, and changes that failed half-way are applied again."""
    feed, source, policies = MemoryFeed(), MemoryRules(rules("one", 1)), MemorySource()
    api_key = ApiKey.generate("live")
    policies.records[api_key.key_id] = record(api_key)
    keys, domains = PolicyCache(policies, ManualClock()), RulesCache(source)
    await keys.get(api_key.key_id)
    invalidator = CacheInvalidator(feed, keys, domains)
    following = asyncio.create_task(invalidator.run())
    await asyncio.sleep(0.05)
    assert amount(domains, "one") == 1
    source.rules["one"], policies.records = rules("one", 7), {}
    source.down = True
    feed.announce(ChangeKind.KEY, api_key.key_id)
    feed.announce(ChangeKind.DOMAIN, "one")
    await asyncio.sleep(0.05)
    assert not invalidator.current
    assert await keys.get(api_key.key_id) is None
    assert amount(domains, "one") == 1
    source.down = False
    await asyncio.sleep(0.6)
    assert invalidator.current
    assert amount(domains, "one") == 7
    following.cancel()
