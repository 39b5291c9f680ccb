"""The switch of all limits, as policies, rules and processes follow it."""

import asyncio
import json
from pathlib import Path

import pytest

from decision.descriptors.world import BLOCKED, DENY, MemoryRules, node, quota
from decision.memory import START_US, ManualClock, MemorySource, burst, record
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.descriptors.rules import DomainRules
from ratelimit_service.decision.descriptors.rules_cache import RulesCache
from ratelimit_service.decision.descriptors.tree import LimitSet
from ratelimit_service.decision.enforcement import MAX_OFF_US, Enforcement, Switch
from ratelimit_service.decision.limit import Mode
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.ports import Change, ChangeKind
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.decision.record import KeyState, OnStoreFailure
from ratelimit_service.own_switch import read_switch, write_switch
from ratelimit_service.postgres.repositories.outbox import from_row, to_row

SECOND = 1_000_000


class World:
    """A policy and a domain with rules, and a switch."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.enforcement = Enforcement(self.clock)
        self.key, self.revoked = ApiKey.generate("live"), ApiKey.generate("live")
        policies = MemorySource()
        policies.records[self.key.key_id] = record(self.key, burst(20), on_store_failure=OnStoreFailure.DENY)
        policies.records[self.revoked.key_id] = record(self.revoked, state=KeyState.REVOKED)
        self.policies = PolicyCache(policies, self.clock, enforcement=self.enforcement)
        nodes = (node("a", "", quota(5)), node("b", "", BLOCKED))
        self.rules = RulesCache(MemoryRules(DomainRules("shop", nodes, DENY)), self.enforcement)
        self.enforcement.add(self.policies, self.rules)

    def limits(self, key: str) -> LimitSet:
        """The limits of a descriptor with this key."""
        tree = self.rules.get("shop")
        assert tree is not None
        return tree.match(((key, "1"),))

    async def enforces(self) -> bool:
        """Whether limits of keys and of rules refuse; they all do or none does."""
        policy = await self.policies.get(self.key.key_id)
        assert policy is not None
        found = {rule.enforced for rule in policy.rules} | {self.limits(key).enforced for key in ("a", "b")}
        modes = {rule.bucket.limit.mode for rule in policy.rules}
        modes |= {bucket.limit.mode for bucket in self.limits("a").buckets}
        assert len(found) == len(modes) == 1
        enforced = found.pop()
        assert modes == {Mode.ENFORCE if enforced else Mode.SHADOW}
        assert policy.source is self.limits("a").source is (Source.STORE if enforced else Source.UNENFORCED)
        return enforced


@pytest.fixture
def world() -> World:
    """A switch that is on."""
    return World()


async def test_it_is_compiled_in(world: World) -> None:
    """Turned off, what was compiled is not valid, limits report only, and no store failure denies; and back."""
    await world.rules.refresh_all()
    assert await world.enforces()
    before, tree = await world.policies.get(world.key.key_id), world.rules.get("shop")
    await world.enforcement.set_shared(Switch(START_US + 60 * SECOND, START_US, "ada"))
    assert not before.validity.is_current(world.clock)
    assert not tree.validity.is_current(world.clock)
    assert not await world.enforces()
    after = await world.policies.get(world.key.key_id)
    assert (after.on_store_failure, self_explained(after)) == (OnStoreFailure.ALLOW, Mode.ENFORCE)
    assert world.limits("a").on_store_failure.name == "ALLOW"
    assert (await world.policies.get(world.revoked.key_id)).refusal is Reason.KEY_REVOKED
    assert world.rules.without_rules("none").match((("a", "1"),)).source is Source.UNENFORCED
    await world.enforcement.set_shared(Switch(0, START_US + 1, "ada"))
    assert await world.enforces()
    assert world.enforcement.reasons() == []


def self_explained(policy: object) -> Mode:
    """The mode of the first limit as it was set, which an explanation shows."""
    return policy.considered[0].limit.mode  # type: ignore[attr-defined,no-any-return]


async def test_it_ends_by_itself(world: World) -> None:
    """Nothing is called when its time is over: what was compiled is not valid any more, and limits refuse."""
    await world.rules.refresh_all()
    await world.enforcement.set_shared(Switch(START_US + 60 * SECOND, START_US, "ada", "drill"))
    world.clock.time_us += 60 * SECOND - 1
    assert not await world.enforces()
    (words,) = world.enforcement.explained()
    assert words.endswith("no limit refuses calls; turned off by ada: drill")
    assert "ada" not in world.enforcement.reasons()[0]
    world.clock.time_us += 1
    assert await world.enforces()
    assert world.enforcement.off is None


async def test_what_was_turned_last_counts(world: World) -> None:
    """Of the switch of all servers and a server's own, the one that was turned last counts, whichever it is."""
    await world.rules.refresh_all()
    off, on = Switch(START_US + 60 * SECOND, START_US, "ada"), Switch(0, START_US + 1, "local")
    await world.enforcement.set_shared(off)
    await world.enforcement.set_local(on)
    assert await world.enforces()
    await world.enforcement.set_shared(off._replace(changed_us=START_US + 2))
    assert not await world.enforces()


def test_a_day_at_most() -> None:
    """A stored switch ends a day after it was set, whatever was written."""
    assert Switch.of(2**60, START_US, "ada", "").off_until_us == START_US + MAX_OFF_US


async def test_a_clock_that_was_ahead(world: World) -> None:
    """A switch set by a clock a year ahead ends within a day, read again too, and one that is set later counts."""
    ahead = START_US + 365 * MAX_OFF_US
    stored = Switch.of(ahead + MAX_OFF_US, ahead, "ada", "")
    await world.enforcement.set_shared(stored)
    assert world.enforcement.off_until_us() == START_US + MAX_OFF_US
    world.clock.time_us += MAX_OFF_US - 1
    await world.enforcement.set_shared(stored)
    assert world.enforcement.off is not None
    world.clock.time_us += 1
    await world.enforcement.set_shared(stored)
    assert world.enforcement.off is None
    await world.enforcement.set_local(stored._replace(actor="local"))
    assert world.enforcement.off is not None
    world.clock.time_us += 1
    await world.enforcement.set_shared(Switch(0, world.clock.time_us, "ada"))
    assert world.enforcement.off is None


async def test_a_clock_that_is_set_back(world: World) -> None:
    """A switch that was read while this server's clock was ahead, too, ends within a day of its being right."""
    world.clock.time_us = START_US + 365 * MAX_OFF_US
    await world.enforcement.set_local(Switch(world.clock.time_us + MAX_OFF_US, world.clock.time_us, "local"))
    world.clock.time_us = START_US
    watching = asyncio.create_task(world.enforcement.watch())
    await asyncio.sleep(0.01)
    watching.cancel()
    assert world.enforcement.off_until_us() == START_US + MAX_OFF_US
    await world.enforcement.set_shared(Switch(0, START_US + 1, "ada"))
    assert world.enforcement.off is None


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1,2]", '["a", 1, "", ""]', "[null, 1, 2, 3]", "\x00"])
def test_a_file_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    """A server's own switch that cannot be read lifts no limit."""
    path = tmp_path / "switch"
    assert read_switch(path) == Switch()
    path.write_text(text)
    assert read_switch(path) == Switch()
    switch = Switch(START_US + 1, START_US, "local user 0", "why")
    write_switch(path, switch)
    assert read_switch(path) == switch
    path.write_text(json.dumps(switch._replace(off_until_us=2**60)))
    assert read_switch(path).off_until_us == START_US + MAX_OFF_US


def test_earlier_versions_can_read_the_change() -> None:
    """A change of the switch is stored as one of a kind that every version knows, and read as what it is."""
    row = to_row(Change(ChangeKind.ENFORCEMENT, ""))
    assert row == {"kind": "domain", "name": ""}
    assert from_row(**row) == Change(ChangeKind.ENFORCEMENT, "")
    for kind in ("key", "subject", "plan", "domain"):
        assert from_row(kind, "x") == Change(ChangeKind(kind), "x")
