"""Held calls where a store is away, a domain cannot be read, or enforcement is switched."""

import pytest

from decision.descriptors.world import World
from decision.memory import ManualClock, burst
from ratelimit_service.decision.descriptors.held import EndedCall, HeldCall
from ratelimit_service.decision.descriptors.outcome import RequestDecision
from ratelimit_service.decision.descriptors.request import DescribedRequest, Descriptor
from ratelimit_service.decision.descriptors.rules import DomainRules
from ratelimit_service.decision.descriptors.rules_cache import RulesCache
from ratelimit_service.decision.enforcement import Enforcement
from ratelimit_service.decision.limit import MICRO, Concurrency, Limit
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.decision.record import OnStoreFailure

TWO_AT_ONCE = Limit("at-once", Concurrency(2, MICRO))


def held_world() -> World:
    """A world whose domain `held` holds calls for a minute."""
    world = World()
    world.source.rules["held"] = DomainRules("held", hold_us=60 * MICRO)
    return world


def call(api_key: object, hits: int = 5, domain: str = "held") -> DescribedRequest:
    """The begin of a call."""
    return DescribedRequest(domain, [Descriptor((("api_key", str(api_key)),), hits)])


async def prepare(world: World, request: DescribedRequest) -> HeldCall | EndedCall | RequestDecision:
    """Prepare a request that has a call which is held."""
    if not len(world.rules):
        await world.rules.refresh_all()
    assert world.held.has_one(request)
    return await world.held.prepare(request)


async def reserve(world: World, request: DescribedRequest) -> tuple[RequestDecision, str]:
    """Decide the begin of a call."""
    held = await prepare(world, request)
    assert isinstance(held, HeldCall)
    return await world.held.reserve(held)


@pytest.mark.parametrize(
    ("on_store_failure", "reasons"),
    [
        (OnStoreFailure.LOCAL, [Reason.WITHIN_LIMIT, Reason.WITHIN_LIMIT, Reason.OVER_LIMIT]),
        (OnStoreFailure.ALLOW, [Reason.DEGRADED_ALLOWED] * 3),
        (OnStoreFailure.DENY, [Reason.DEGRADED_DENIED] * 3),
    ],
)
async def test_the_store_away(on_store_failure: OnStoreFailure, reasons: list[Reason]) -> None:
    """Decided by the plan, with slots of this server by LOCAL, and without an id: nobody could settle it."""
    world = held_world()
    api_key = world.add_key(burst(20), TWO_AT_ONCE, on_store_failure=on_store_failure)
    world.buckets.down = True
    decided = [await reserve(world, call(api_key)) for _ in range(3)]
    assert [decision.statuses[0].reason for decision, _ in decided] == reasons
    assert {decision.statuses[0].source for decision, _ in decided} == {Source.DEGRADED}
    assert {reservation_id for _, reservation_id in decided} == {""}


async def test_a_domain_that_cannot_be_read() -> None:
    """Nobody knows whether its calls are to be held: they are denied for now, however many descriptors there are."""
    world = held_world()
    api_key = world.add_key(burst(20))
    world.source.unreadable = {"held"}
    decision = await prepare(world, call(api_key))
    assert isinstance(decision, RequestDecision)
    assert (decision.allowed, decision.statuses[0].reason) == (False, Reason.DEGRADED_DENIED)
    assert not world.held.has_one(call(api_key, domain="without rows"))


async def test_a_domain_that_could_be_read_before() -> None:
    """Its rules stay in force, and its calls held."""
    world = held_world()
    api_key = world.add_key(burst(20))
    assert (await reserve(world, call(api_key)))[1]
    world.source.unreadable = {"held"}
    await world.rules.refresh_all()
    assert (await reserve(world, call(api_key)))[1]


async def test_a_domain_that_holds_no_calls_any_more() -> None:
    """Those under way are settled; what no server made is an entry of a rule like any other."""
    world = held_world()
    api_key = world.add_key(burst(20))
    _, reservation_id = await reserve(world, call(api_key))
    world.source.rules["held"] = DomainRules("held")
    await world.rules.refresh_all()
    end = DescribedRequest("held", [Descriptor((("reservation_id", reservation_id),), 0)])
    assert await prepare(world, end) == EndedCall(reservation_id, 0)
    assert not world.held.has_one(DescribedRequest("held", [Descriptor((("reservation_id", "made-up"),), 0)]))
    assert not world.held.has_one(call(api_key))


async def test_slots_and_tokens() -> None:
    """A call of no hits takes a slot; it comes back at the end, with the actual cost in place of the estimate."""
    world = held_world()
    api_key = world.add_key(burst(20), TWO_AT_ONCE)
    first = await reserve(world, call(api_key, 0))
    await reserve(world, call(api_key, 5))
    denied, _ = await reserve(world, call(api_key, 0))
    assert (denied.allowed, denied.statuses[0].limit and denied.statuses[0].limit.name) == (False, "at-once")
    assert denied.retry_after_us is None
    assert (await world.held.settle(EndedCall(first[1], 9))).allowed
    decision, _ = await reserve(world, call(api_key, 6))
    assert (decision.allowed, decision.statuses[0].remaining) == (True, 0)
    assert [limit.name for limit in decision.statuses[0].limits] == ["burst"]


async def test_switching_enforcement_renews_what_is_cached() -> None:
    """Once it has been off and on, a call is prepared once again, and then for as long as nothing changes."""
    world, clock = held_world(), ManualClock()
    enforcement = Enforcement(clock)
    rules = RulesCache(world.source, enforcement)
    await rules.refresh_all()
    _, before = rules.hold_of_keys("held")
    await rules.recompile()
    assert not before.is_current(clock)
    hold_us, after = rules.hold_of_keys("held")
    assert (hold_us, after.is_current(clock)) == (60 * MICRO, True)
    assert rules.hold_of_keys("held")[1] is after
