"""Charges whose cost is known afterwards: debt, and what a limit with an overdraft does until it has recovered."""

import asyncio
from dataclasses import replace
from time import monotonic

import pytest

from decision.test_engine import World
from ratelimit_service.decision.charge import LimitResult
from ratelimit_service.decision.engine import Check
from ratelimit_service.decision.limit import MAX_TOKENS, MICRO, Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.outcome import UNDECIDED, Decision, wait_for
from ratelimit_service.decision.reason import Reason
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.errors import InvalidArgument, Unavailable

TOKENS = Limit("tokens", TokenBucket(100, 10, MICRO), overdraft=50)


@pytest.fixture
def world() -> World:
    """An engine over stores in memory."""
    return World()


async def charge(world: World, key: str, cost: int, request_id: str = "") -> Decision:
    """Charge a cost that was incurred already."""
    return await world.engine.check(Check(key, "", "", cost, request_id, afterwards=True))


async def test_a_debt_is_recorded_and_denies_until_it_has_refilled(world: World) -> None:
    """What is above the overdraft is not recorded; then peeks are denied, too, exactly until one token is left."""
    key = world.add(TOKENS)
    decision = await charge(world, key, 90)
    assert (decision.allowed, decision.results[0].remaining) == (True, 10 * MICRO)
    decision = await charge(world, key, 40)
    assert (decision.allowed, decision.reason) == (False, Reason.OVER_LIMIT)
    assert (decision.results[0].remaining, decision.retry_after_us) == (-30 * MICRO, 3_100_000)
    assert (await charge(world, key, 1_000)).results[0].remaining == -50 * MICRO
    wait = 5_100_000
    for cost in (0, 1):
        decision = await world.check(key, cost=cost)
        assert (decision.allowed, decision.retry_after_us) == (False, wait)
    world.clock.time_us += wait - 1
    assert not (await world.check(key, cost=0)).allowed
    world.clock.time_us += 1
    assert (await world.check(key, cost=0)).allowed
    assert (await world.check(key)).allowed
    assert not (await world.check(key, cost=0)).allowed


async def test_a_key_that_is_not_read_in_time(world: World) -> None:
    """Is an error, so that the charge is repeated: nobody obeys the denial of a call that is over. A peek is denied."""
    key, known = world.add(TOKENS), world.add(TOKENS)
    await charge(world, known, 1)
    world.source.before_answer = asyncio.Event()
    soon = monotonic() + 0.02
    over, peek = Check(key, cost=5, afterwards=True), Check(key, cost=0, afterwards=True)
    with pytest.raises(Unavailable):
        await world.engine.check(over, soon)
    batch = await world.engine.decide_all(await world.engine.prepare_all([over, peek, Check(known)], soon))
    assert isinstance(batch[0], Unavailable)
    assert (batch[1], isinstance(batch[2], Decision)) == (UNDECIDED, True)
    world.source.before_answer.set()


async def test_an_overdraft_of_none_ends_at_zero(world: World) -> None:
    """With an overdraft of 0 nothing is owed, and peeks are denied when all is used; without one they never are."""
    zero, none = (Limit(name, Quota(10, Window.DAY), overdraft=tokens) for name, tokens in (("z", 0), ("n", None)))
    first, second = world.add(zero), world.add(none)
    for key, peeks in ((first, False), (second, True)):
        decision = await charge(world, key, 15)
        assert (decision.allowed, decision.results[0].remaining) == (False, 0)
        assert (await world.check(key, cost=0)).allowed == peeks
        assert not (await world.check(key)).allowed


async def test_each_limit_takes_what_it_can(world: World) -> None:
    """It is the exception to all-or-nothing: one limit owes, another ends at zero, a third has all of it."""
    key = world.add(
        Limit("owes", Quota(10, Window.DAY), overdraft=MAX_TOKENS - 10),
        Limit("ends", Quota(12, Window.DAY)),
        Limit("wide", Quota(1_000, Window.MONTH)),
    )
    decision = await charge(world, key, 30)
    assert [result.remaining // MICRO for result in decision.results] == [-20, 0, 970]
    assert (decision.allowed, decision.rules[decision.binding].limit.name) == (False, "owes")


async def test_it_is_charged_once_whatever_the_response(world: World) -> None:
    """A repeat with the same id charges nothing, although the first one left nothing; another kind of charge does."""
    key = world.add(TOKENS)
    for _ in range(3):
        decision = await charge(world, key, 120, "r")
        assert (decision.allowed, decision.results[0].remaining) == (False, -20 * MICRO)
    assert not (await world.check(key, cost=120, request_id="r")).allowed


async def test_a_shadow_limit_owes_and_denies_nothing(world: World) -> None:
    """Only enforced limits make the response a denial; what a shadow limit owes shows in its result."""
    key = world.add(replace(TOKENS, mode=Mode.SHADOW), Limit("wide", Quota(1_000, Window.DAY)))
    decision = await charge(world, key, 130)
    assert (decision.allowed, decision.results[0].remaining) == (True, -30 * MICRO)
    assert (await world.check(key, cost=0)).allowed


@pytest.mark.parametrize("policy", list(OnStoreFailure))
async def test_it_is_recorded_while_the_store_is_away(policy: OnStoreFailure) -> None:
    """Whatever becomes of calls then: what was spent is noted, to be handed over once the store is back."""
    world = World()
    key = world.add(TOKENS, on_store_failure=policy)
    world.buckets.down = True
    decision = await charge(world, key, 70)
    assert decision.allowed == (policy is not OnStoreFailure.DENY)
    spent = world.engine._local.unreported(10)  # type: ignore[attr-defined]
    assert [(each.bucket.limit.name, each.tokens) for each in spent] == [("tokens", 70)]


async def test_what_is_noted_counts_as_charged() -> None:
    """While the store is away and the plan denies, usage has the call and its cost: they are charged later."""
    world = World()
    key = world.add(TOKENS, on_store_failure=OnStoreFailure.DENY)
    world.buckets.down = True
    await charge(world, key, 70)
    (row,) = world.usage.take(10)
    assert row.counts == [1, 70, 0, 0, 1]


def test_an_unbounded_overdraft_stays_so() -> None:
    """With another amount the limit may owe as much as is counted exactly, another one as much as before."""
    most = Limit("x", Quota(100, Window.DAY), overdraft=MAX_TOKENS - 100)
    some = Limit("x", Quota(100, Window.DAY), overdraft=5)
    for amount in (10, 1_000):
        assert most.with_algorithm(Quota(amount, Window.DAY)).overdraft == MAX_TOKENS - amount
        assert some.with_algorithm(Quota(amount, Window.DAY)).overdraft == 5


def test_a_refund_never_waits() -> None:
    """Also at a limit that owes more than it restores."""
    assert wait_for(TOKENS, LimitResult(-30 * MICRO, 3_100_000, 0), -3) == 0


async def test_what_is_no_way_to_charge_is_an_error(world: World) -> None:
    """A value of a later version of the API is not taken for an ordinary charge."""
    key = world.add(TOKENS)
    with pytest.raises(InvalidArgument, match="IF_ALLOWED or ALWAYS"):
        await world.engine.check(Check(key, afterwards=None))


@pytest.mark.parametrize(
    ("algorithm", "overdraft"),
    [
        (Quota(10, Window.DAY), -1),
        (Quota(10, Window.DAY), MAX_TOKENS - 9),
        (TokenBucket(10, 1, MICRO), MAX_TOKENS),
        (TokenBucket(1, 1, 31 * 86_400 * MICRO), 9_000_000_000),
    ],
)
def test_an_overdraft_within_bounds(algorithm: TokenBucket | Quota, overdraft: int) -> None:
    """Not negative, not beyond what is counted exactly, and not so large that its refill is not."""
    with pytest.raises(InvalidArgument, match="overdraft"):
        Limit("x", algorithm, overdraft=overdraft)
