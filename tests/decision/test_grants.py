"""When units are granted, for how long, and why they are not."""

from dataclasses import replace

import pytest

from decision.memory import PEPPERS, START_US, ManualClock, MemoryBuckets, MemorySource, burst, record
from ratelimit_service.decision import grants as module
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.enforcement import Enforcement, Switch
from ratelimit_service.decision.grants import GrantCall, GrantOutcome, Grants, PerCall, ReturnedGrant, SpentCalls
from ratelimit_service.decision.key_resolver import KeyResolver
from ratelimit_service.decision.limit import MICRO, Concurrency, Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.decision.record import KeyState, Override
from ratelimit_service.errors import InvalidArgument

DAILY = Limit("daily", Quota(100, Window.DAY))


class World:
    """Grants over stores in memory, and one key."""

    def __init__(self, *limits: Limit, **fields: object) -> None:
        self.clock, source = ManualClock(), MemorySource()
        self.buckets, self.enforcement = MemoryBuckets(self.clock), Enforcement(self.clock)
        cache = PolicyCache(source, self.clock, enforcement=self.enforcement)
        self.enforcement.add(cache)
        self.grants = Grants(KeyResolver(cache, PEPPERS), self.buckets, self.clock)
        self.api_key = ApiKey.generate("live")
        source.records[self.api_key.key_id] = record(self.api_key, *limits, **fields)
        self._asked = 0

    async def ask(self, wants: int = 4, *returns: ReturnedGrant, grant_id: str = "", **fields: object) -> GrantOutcome:
        """Ask for units by an id of their own."""
        self._asked += 1
        own = {"api_key": str(self.api_key), "resource": "orders", **fields}
        grant_id = grant_id or f"{self._asked:032x}"
        return await self.grants.grant(GrantCall(grant_id, wants=wants, returns=returns, **own))


async def test_a_quarter_of_what_is_left_and_a_fifth_of_what_fills() -> None:
    """Of a bucket of 20 that fills in two seconds, first five units for 0.4 s; of the last token one; then none."""
    world = World(burst(20))
    outcomes = [await world.ask(100) for _ in range(12)]
    assert [outcome.units for outcome in outcomes] == [5, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1, 0]
    first, last = outcomes[0], outcomes[-1]
    assert (first.ttl_us, first.ask_again_us, first.prefix, first.per_call) == (400_000, 0, "", PerCall.NO)
    assert first.decision is not None
    assert (first.decision.allowed, first.decision.source) == (True, Source.STORE)
    assert first.decision.results[0].remaining == 15 * MICRO
    assert (last.ttl_us, last.ask_again_us, last.prefix) == (0, 100_000, None)
    assert last.decision is not None
    assert (last.decision.allowed, last.decision.reason) == (False, Reason.OVER_LIMIT)
    never = await world.ask(1, cost=21)
    assert never.decision is not None
    assert (never.decision.reason, never.ask_again_us) == (Reason.COST_EXCEEDS_CAPACITY, 10 * MICRO)


async def test_no_longer_than_the_key_an_override_or_a_window() -> None:
    """Whatever of these ends first; and none at all if that is within 10 ms."""
    world = World(DAILY, expires_us=START_US + 300_000)
    assert (await world.ask()).ttl_us == 300_000
    world = World(DAILY, key_overrides=(Override(DAILY, START_US + 200_000),))
    assert (await world.ask()).ttl_us == 200_000
    world = World(DAILY, expires_us=START_US + 9_999)
    assert (await world.ask()) == GrantOutcome(f"{1:032x}", ask_again_us=9_999, per_call=PerCall.ENDS_TOO_SOON)
    world = World(DAILY)
    assert (await world.ask()).ttl_us == MICRO
    world.clock.time_us += 86_400 * MICRO - START_US % (86_400 * MICRO) - 150_000
    assert (await world.ask()).ttl_us == 150_000
    world.clock.time_us += 141_000
    assert (await world.ask()) == GrantOutcome(f"{3:032x}", ask_again_us=9_000, per_call=PerCall.ENDS_TOO_SOON)


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ((DAILY, replace(DAILY, name="debt", overdraft=0)), PerCall.OVERDRAFT),
        ((DAILY, replace(DAILY, name="debt", overdraft=0, mode=Mode.SHADOW)), PerCall.NO),
        ((DAILY, replace(DAILY, name="debt", overdraft=0, resource="search*")), PerCall.NO),
        ((DAILY, Limit("at-once", Concurrency(2, MICRO))), PerCall.CALLS_AT_ONCE),
        ((DAILY, Limit("at-once", Concurrency(2, MICRO), mode=Mode.SHADOW)), PerCall.NO),
        ((DAILY, Limit("at-once", Concurrency(2, MICRO), "search*")), PerCall.NO),
        ((Limit("fast", TokenBucket(1, 1_000, MICRO)),), PerCall.REFILLS_TOO_FAST),
        ((DAILY, Limit("fast", TokenBucket(1, 1_000, MICRO), mode=Mode.SHADOW)), PerCall.NO),
    ],
)
async def test_calls_that_have_to_be_checked_one_by_one(limits: tuple[Limit, ...], why: PerCall) -> None:
    """By an enforced limit that applies to the resource, and needs to know of each; the store is not asked."""
    world = World(*limits)
    outcome = await world.ask()
    assert (outcome.per_call, outcome.units) == (why, 0 if why else 4)
    assert outcome.ask_again_us == (10 * MICRO if why else 0)
    assert world.buckets.round_trips == (0 if why else 1)


async def test_returns_are_made_first() -> None:
    """In the same call, whatever becomes of the grant; by other limits of the key, too; of this key alone."""
    world = World(burst(4, name="all"), Limit("one", Quota(8, Window.DAY), "one"))
    held = [await world.ask(1, resource=resource) for resource in ("one", "two", "two", "one")]
    assert [outcome.units for outcome in held] == [1, 1, 1, 1]
    assert (await world.ask(1)).units == 0
    back = [ReturnedGrant(outcome.grant_id, 1) for outcome in held[:2]]
    outcome = await world.ask(1, *back, cost=2)
    assert outcome.units == 1
    assert (await world.ask(0, *back)) == GrantOutcome(f"{7:032x}")
    peek = await world.ask(1, resource="one")
    assert peek.decision is not None
    assert [result.remaining // MICRO for result in peek.decision.results] == [0, 7]
    other = World(burst(4))
    other.buckets._buckets = world.buckets._buckets
    await other.ask(0, ReturnedGrant(held[2].grant_id, 1))
    assert (await world.ask(1)).units == 0


async def test_a_key_that_is_refused_or_unknown() -> None:
    """Gets none, and the reason, and may return what it has. An unknown one has nothing to return."""
    world = World(burst(4))
    held = await world.ask(1)
    refused = World(burst(4), state=KeyState.SUSPENDED)
    back = ReturnedGrant(held.grant_id, 1, [SpentCalls("orders", 0, 3, 0)])
    outcome = await refused.ask(1, back, grant_id="a" * 32)
    assert outcome.decision is not None
    assert (outcome.decision.reason, outcome.units, outcome.ask_again_us) == (Reason.KEY_SUSPENDED, 0, MICRO)
    assert (outcome.returned, refused.buckets.round_trips) == (True, 1)
    unknown = await world.ask(1, api_key=str(ApiKey.generate("live")))
    assert unknown.decision is not None
    assert (unknown.decision.reason, unknown.ask_again_us) == (Reason.KEY_UNKNOWN, MICRO)


async def test_the_store_is_away() -> None:
    """No grants, and returns have to be sent again; a key without limits needs no store."""
    world = World(burst(4), Limit("other", Quota(1, Window.DAY), "other"))
    held = await world.ask(1)
    world.buckets.down = True
    outcome = await world.ask(1, ReturnedGrant(held.grant_id, 1))
    assert outcome == GrantOutcome(f"{2:032x}", ask_again_us=MICRO, per_call=PerCall.STORE_UNAVAILABLE, returned=False)
    world = World(Limit("other", Quota(1, Window.DAY), "other"))
    world.buckets.down = True
    outcome = await world.ask(1_000)
    assert (outcome.units, outcome.ttl_us, outcome.prefix) == (1_000, MICRO, "or")


async def test_enforcement_is_off() -> None:
    """No grants, since limits have to see what they would refuse; returns are made."""
    world = World(burst(4))
    held = await world.ask(1)
    await world.enforcement.set_shared(Switch(START_US + 60 * MICRO, START_US))
    outcome = await world.ask(1, ReturnedGrant(held.grant_id, 1))
    assert outcome == GrantOutcome(f"{2:032x}", ask_again_us=MICRO, per_call=PerCall.UNENFORCED)
    assert world.buckets.round_trips == 2


async def test_one_key_asks_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it waits for the next second."""
    monkeypatch.setattr(module, "MAX_GRANTS", 2)
    world = World(burst(20))
    world.clock.time_us += 700_000
    outcomes = [await world.ask(1) for _ in range(3)]
    assert [outcome.units for outcome in outcomes] == [1, 1, 0]
    assert (outcomes[2].per_call, outcomes[2].ask_again_us) == (PerCall.TOO_MANY_GRANTS, 300_000)
    world.clock.time_us += 300_000
    assert (await world.ask(1)).units == 1


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("grant_id", {"grant_id": "A" * 32}),
        ("grant_id", {"grant_id": "1" * 31}),
        ("api_key", {"api_key": ""}),
        ("api_key", {"key_id": "0123456789abcdef"}),
        ("cost", {"cost": 0}),
        ("wants", {"wants": 1_000_001}),
        ("wants", {"wants": 0}),
        ("resource", {"resource": "a" * 257}),
        ("returns", {"returns": [ReturnedGrant("1" * 32, 1)] * 65}),
        ("returns", {"returns": [ReturnedGrant("1" * 32, 1, [SpentCalls("", 1, 0, 1)] * 257)]}),
        ("returns[0].grant_id", {"returns": [ReturnedGrant("", 1)]}),
        ("returns[0].grant_id", {"returns": [ReturnedGrant("0" * 32, 1)]}),
        ("returns[0].spent[0].cost", {"returns": [ReturnedGrant("1" * 32, 1, [SpentCalls("", 0, 1, 1)])]}),
        ("returns[0].spent[0].allowed", {"returns": [ReturnedGrant("1" * 32, 1, [SpentCalls("", 2**32, 1, 1)])]}),
        ("returns[0].spent[0].limit", {"returns": [ReturnedGrant("1" * 32, 1, [SpentCalls("", 1, 1, 1, "?")])]}),
        ("returns[0].spent[0].resource", {"returns": [ReturnedGrant("1" * 32, 1, [SpentCalls("\n", 1, 1, 1)])]}),
    ],
)
async def test_what_is_out_of_bounds_is_named(field: str, call: dict[str, object]) -> None:
    """With its field, and nothing is granted or returned."""
    world = World(burst(4))
    own = {"grant_id": "0" * 32, "api_key": str(world.api_key), "resource": "orders", "wants": 1, **call}
    with pytest.raises(InvalidArgument) as caught:
        await world.grants.grant(GrantCall(**own))
    assert caught.value.violations[0].field == field
    assert world.buckets.round_trips == 0
