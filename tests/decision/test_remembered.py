"""Calls that the store has denied are denied without it, and what has to be asked for is asked for."""

import pytest

from decision.descriptors.world import World as DescriptorWorld
from decision.descriptors.world import bucket, describe, node
from decision.memory import PEPPERS, ManualClock, MemoryBuckets, MemorySource, burst, listening, record
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.descriptors.request import DescribedRequest
from ratelimit_service.decision.descriptors.rules import DomainRules
from ratelimit_service.decision.enforcement import Enforcement, Switch
from ratelimit_service.decision.engine import Check, DecisionEngine
from ratelimit_service.decision.key_resolver import KeyResolver
from ratelimit_service.decision.limit import Concurrency, Limit, Mode, TokenBucket
from ratelimit_service.decision.outcome import Decision
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.ports import Change, ChangeKind
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.decision.reservation import ReservationIds
from ratelimit_service.decision.usage_tally import UsageTally

SLOW = Limit("burst", TokenBucket(5, 1, 60_000_000))


class World:
    """One key on a plan, an engine that remembers, and a clock for all of it."""

    def __init__(self, *limits: Limit) -> None:
        self.clock, self.source = ManualClock(), MemorySource()
        self.api_key = ApiKey.generate("test")
        self.source.records[self.api_key.key_id] = record(self.api_key, *(limits or (SLOW,)))
        self.enforcement = Enforcement(self.clock)
        self.policies = PolicyCache(self.source, self.clock, enforcement=self.enforcement)
        self.enforcement.add(self.policies)
        self.keys = KeyResolver(self.policies, PEPPERS)
        self.store = MemoryBuckets(self.clock)
        self.store.exhausted = True
        self.usage = UsageTally(self.clock)
        self.denials = listening(self.clock)
        ids = ReservationIds([b"secret"])
        self.engine = DecisionEngine(self.keys, self.store, None, self.usage, ids, self.denials)

    async def check(self, **fields: object) -> Decision:
        """Decide a call."""
        return await self.engine.check(Check(str(self.api_key), **fields))

    async def exhaust(self) -> None:
        """Use the limit up, and be denied once."""
        assert (await self.check(cost=5)).allowed
        assert not (await self.check()).allowed
        self.store.round_trips = 0


@pytest.fixture
async def world() -> World:
    """One in which the limit is used up, and a call was denied."""
    made = World()
    await made.exhaust()
    return made


async def test_a_repeat_of_a_denied_call_does_not_ask(world: World) -> None:
    """It has what the store replied, with the times of now, and where it is from."""
    world.clock.time_us += 500_000
    decision = await world.check()
    assert (decision.allowed, decision.reason, decision.source) == (False, Reason.OVER_LIMIT, Source.MEMORY)
    assert decision.rules[decision.binding].limit.name == "burst"
    assert 59_400_000 < decision.retry_after_us < 59_500_010
    assert not (await world.check(cost=3)).allowed
    assert world.store.round_trips == 0
    assert world.engine.tally.totals()[Reason.OVER_LIMIT][Source.MEMORY] == 2
    assert world.engine.tally.denials["free", "burst"] == 3
    world.clock.time_us += 500_000
    assert (await world.check()).source is Source.STORE


async def test_it_counts_as_usage_as_a_denied_call_does(world: World) -> None:
    """By the tally: the store has not seen it."""
    await world.check(resource="orders")
    await world.check(resource="orders")
    (row,) = [row for row in world.usage.take(10) if b"orders" in row.field]
    assert row.counts == [0, 0, 2, 0, 0, 2, 0]


async def test_what_is_given_again_counts_as_if_it_were_decided_again() -> None:
    """As many denials as there were calls, of each limit, of the shadow limit too."""
    shadow = Limit("would", TokenBucket(5, 1, 60_000_000), mode=Mode.SHADOW)
    decided, given = World(SLOW, shadow), World(SLOW, shadow)
    for world in (decided, given):
        await world.exhaust()
    for _ in range(7):
        await decided.check()
    check = await given.engine.prepare(Check(str(given.api_key)))
    decision = await given.engine.decide(check)
    given.engine.count_again(check, decision, 6)
    assert given.engine.holds_until(check) == pytest.approx(given.clock.time_us / 1e6 + 1, abs=0.01)
    assert given.engine.tally == decided.engine.tally
    assert given.engine.tally.denials == decided.engine.tally.denials
    assert [row.counts for row in given.usage.take(10)] == [row.counts for row in decided.usage.take(10)]
    given.engine.count_again(check, decision, 5)  # after what was counted was taken
    assert [row.counts for row in given.usage.take(10)] == [[0, 0, 5, 5, 0, 5, 0, 0, 5]]


async def test_requests_that_are_given_again_count_as_well() -> None:
    """Requests of one descriptor."""
    decided, given = await rules_world(), await rules_world()
    for world in (decided, given):
        await world.decide(describe(A))
    for _ in range(7):
        await decided.decide(describe(A))
    prepared = await given.engine.prepare(DescribedRequest("shop", [describe(A)]))
    decision = await given.engine.decide(prepared)
    given.engine.count_again(prepared, decision.statuses[0], 6)
    assert given.engine.holds_until(prepared) > given.clock.time_us / 1e6
    assert given.engine.tally == decided.engine.tally
    assert given.engine.tally.denials == decided.engine.tally.denials
    assert [row.counts for row in given.usage.take(10)] == [row.counts for row in decided.usage.take(10)]


async def test_a_shadow_limit_that_would_deny_too_is_counted(world: World) -> None:  # noqa: ARG001
    """Nothing is charged to it by a denied call, and nothing was before."""
    shadow = Limit("would", TokenBucket(5, 1, 60_000_000), mode=Mode.SHADOW)
    both = World(SLOW, shadow)
    await both.exhaust()
    decision = await both.check()
    assert (decision.source, [result.wait_us > 0 for result in decision.results]) == (Source.MEMORY, [True, True])
    (row,) = both.usage.take(10)
    assert row.counts == [0, 0, 1, 1, 0, 1, 0, 0, 1]


@pytest.mark.parametrize(
    "fields",
    [
        {"cost": 0},
        {"afterwards": True},
        {"hold_us": 10_000_000},
        {"request_id": "r"},
        {"request_id": "r", "attempt": 2},
    ],
)
async def test_what_asks(world: World, fields: dict[str, object]) -> None:
    """Peeks, charges made afterwards, reservations, and calls that may be repeats of one that was allowed."""
    assert (await world.check(**fields)).source is Source.STORE
    assert world.store.round_trips == 1


async def test_what_costs_less_asks(world: World) -> None:
    """It may fit."""
    world.clock.time_us += 61_000_000
    assert not (await world.check(cost=4)).allowed
    assert (await world.check(cost=4)).source is Source.MEMORY
    decision = await world.check(cost=1)
    assert (decision.allowed, decision.source) == (True, Source.STORE)


async def test_a_first_attempt_does_not_ask(world: World) -> None:
    """Nobody could have been allowed by its id."""
    assert (await world.check(request_id="r", attempt=1)).source is Source.MEMORY


async def test_a_repeat_gets_the_response_of_its_first_attempt() -> None:
    """Although others were denied meanwhile: its first attempt was charged, and the reply was lost."""
    world = World()
    assert (await world.check(request_id="r", attempt=1)).allowed
    await world.check(cost=4)
    assert not (await world.check(request_id="other", attempt=1)).allowed
    assert (await world.check(request_id="other", attempt=1)).source is Source.MEMORY
    assert (await world.check(request_id="r", attempt=2)).allowed


async def test_calls_that_take_slots_ask() -> None:
    """A slot may come back at any time."""
    world = World(SLOW, Limit("at_once", Concurrency(1, 1_000_000)))
    assert (await world.check()).allowed
    assert not (await world.check()).allowed
    assert (await world.check()).source is Source.STORE


async def test_a_batch_asks_for_what_it_has_to(world: World) -> None:
    """In the order of the calls."""
    checks = [Check(str(world.api_key), cost=cost) for cost in (1, 0, 2)]
    decisions = await world.engine.decide_all(await world.engine.prepare_all(checks))
    assert [decision.source for decision in decisions] == [Source.MEMORY, Source.STORE, Source.MEMORY]
    assert [decision.allowed for decision in decisions] == [False, True, False]
    assert world.store.round_trips == 1
    repeated = await world.engine.decide_all(await world.engine.prepare_all(checks[:1]))
    assert [decision.source for decision in repeated] == [Source.MEMORY]


async def test_a_batch_remembers() -> None:
    """What the store denies in it."""
    world = World()
    checks = [Check(str(world.api_key), cost=5)] * 2
    await world.engine.decide_all(await world.engine.prepare_all(checks))
    assert (await world.check(cost=5)).source is Source.MEMORY


async def test_a_change_of_the_policy_is_in_force_at_once(world: World) -> None:
    """Such as a boost: its buckets are other ones."""
    assert (await world.check()).source is Source.MEMORY
    key_id = world.api_key.key_id
    world.source.records[key_id] = record(world.api_key, burst(capacity=50))
    await world.policies.apply([Change(ChangeKind.KEY, key_id)])
    decision = await world.check()
    assert (decision.allowed, decision.source) == (True, Source.STORE)


async def test_limits_that_are_turned_off_deny_nothing_more(world: World) -> None:
    """At once; and turned on again, the store is asked."""
    now_us = world.clock.time_us
    await world.enforcement.set_shared(Switch(now_us + 60_000_000, now_us, "ada"))
    decision = await world.check()
    assert (decision.allowed, decision.source) == (True, Source.UNENFORCED)
    await world.enforcement.set_shared(Switch(0, now_us + 1, "ada"))
    assert (await world.check()).source is Source.STORE


async def test_it_goes_on_while_the_store_is_away(world: World) -> None:
    """For what is left of the second, whatever `on_store_failure` says: that is what the store has replied."""
    world.store.down = True
    assert (await world.check()).source is Source.MEMORY


async def test_who_does_not_listen_asks() -> None:
    """As where the setting is off."""
    world = World()
    world.denials.deafen()
    await world.exhaust()
    assert (await world.check()).source is Source.STORE


A, B = ("a", "1"), ("b", "1")


async def rules_world() -> DescriptorWorld:
    """Two limits, of which that of A is used up, and was denied once."""
    world = DescriptorWorld(node("a", "", bucket(5, name="first")), node("b", "", bucket(5, name="second")))
    world.buckets.exhausted = True
    assert (await world.decide(describe(A, hits=5), describe(B))).allowed
    assert not (await world.decide(describe(A), describe(B))).allowed
    world.usage.take(100)
    world.buckets.round_trips = 0
    return world


async def test_a_request_of_descriptors_does_not_ask_again() -> None:
    """By the statuses of all of its descriptors, as the store had them."""
    world = await rules_world()
    decision = await world.decide(describe(A), describe(B))
    first, second = decision.statuses
    assert (first.allowed, first.source, first.limit.name) == (False, Source.MEMORY, "first")
    assert (second.allowed, second.source, second.remaining) == (True, Source.MEMORY, 4)
    assert 0 < decision.retry_after_us < 1_000_000
    assert world.buckets.round_trips == 0
    assert world.engine.tally.totals()[Reason.OVER_LIMIT][Source.MEMORY] == 1
    assert [row.counts for row in world.usage.take(10)] == [[0, 0, 1, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0, 0]]


async def test_one_descriptor_does_not_ask_again() -> None:
    """The common case. What it costs more for is denied as well; another descriptor of its rule is another limit."""
    world = await rules_world()
    assert (await world.decide(describe(A))).statuses[0].source is Source.STORE
    assert (await world.decide(describe(A))).statuses[0].source is Source.MEMORY
    assert (await world.decide(describe(A, hits=3))).statuses[0].source is Source.MEMORY
    assert (await world.decide(describe(("a", "2")))).allowed


async def test_requests_that_ask() -> None:
    """Peeks and refunds: what a refund returns is asked for at once."""
    world = await rules_world()
    await world.decide(describe(A))
    assert (await world.decide(describe(A, hits=0))).statuses[0].source is Source.STORE
    assert (await world.decide(describe(A))).statuses[0].source is Source.MEMORY
    assert (await world.decide(describe(A, hits=-2))).allowed
    decision = await world.decide(describe(A))
    assert (decision.allowed, decision.statuses[0].source) == (True, Source.STORE)


async def test_new_rules_are_in_force_at_once() -> None:
    """Their limits are other ones."""
    world = await rules_world()
    await world.decide(describe(A))
    world.source.rules["shop"] = DomainRules("shop", (node("a", "", bucket(50, name="first")),))
    await world.rules.refresh_all()
    assert (await world.decide(describe(A))).allowed
