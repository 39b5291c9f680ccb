"""The decision: reasons, binding limits, idempotency and degraded decisions."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic

import pytest

from decision.memory import PEPPERS, START_US, ManualClock, MemoryBuckets, MemorySource, burst, record
from ratelimit_service.buckets.local import LocalBucketStore
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.charge import Charge, ChargeResult
from ratelimit_service.decision.engine import MAX_COST, Check, DecisionEngine
from ratelimit_service.decision.key_resolver import KeyResolver
from ratelimit_service.decision.limit import (
    MICRO,
    Concurrency,
    Counting,
    Level,
    Limit,
    Mode,
    Quota,
    TokenBucket,
    Window,
)
from ratelimit_service.decision.outcome import UNDECIDED, Decision
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.ports import PartlyUnavailable, QueueTimeout, StoreUnavailable
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.decision.record import KeyState, OnStoreFailure, Override
from ratelimit_service.decision.reservation import ReservationIds
from ratelimit_service.decision.usage_tally import UsageTally
from ratelimit_service.errors import (
    DeadlineExceeded,
    InvalidArgument,
    LookupDeferred,
    Overloaded,
    ServiceError,
    Unavailable,
)


class World:
    """An engine over stores in memory, on one of `servers` servers."""

    def __init__(self, servers: int = 1) -> None:
        self.clock, self.source, self.servers = ManualClock(), MemorySource(), servers
        self.buckets, local = MemoryBuckets(self.clock), LocalBucketStore(lambda: self.servers, self.clock.now_us)
        cache = PolicyCache(self.source, self.clock)
        self.usage = UsageTally(self.clock)
        self.engine = DecisionEngine(
            KeyResolver(cache, PEPPERS), self.buckets, local, self.usage, ReservationIds([b"secret"])
        )

    def add(self, *limits: Limit, **fields: object) -> str:
        api_key = ApiKey.generate("live")
        self.source.records[api_key.key_id] = record(api_key, *limits, **fields)
        return str(api_key)

    async def check(self, api_key: str, resource: str = "", cost: int = 1, request_id: str = "") -> Decision:
        return await self.engine.check(Check(api_key, "", resource, cost, request_id))

    async def check_all(self, checks: Sequence[Check]) -> list[Decision | ServiceError]:
        return await self.engine.decide_all(await self.engine.prepare_all(checks))


@pytest.fixture
def world() -> World:
    """An engine over stores in memory."""
    return World()


async def test_burst_then_denied_with_an_exact_wait(world: World) -> None:
    """Twenty of a burst of 25 are allowed; the denial has the time to retry after, exact to the microsecond."""
    key = world.add()
    decisions = [await world.check(key) for _ in range(25)]
    assert [d.reason for d in decisions] == [Reason.WITHIN_LIMIT] * 20 + [Reason.OVER_LIMIT] * 5
    assert {d.source for d in decisions} == {Source.STORE}
    wait = decisions[-1].retry_after_us
    assert wait == 100_000
    world.clock.time_us += wait - 1
    assert not (await world.check(key)).allowed
    world.clock.time_us += 1
    assert (await world.check(key)).allowed


async def test_the_id_of_a_key_is_no_secret(world: World) -> None:
    """In one batch, what is named by its id says nothing of calls that name it by a secret, whatever they send."""
    secret = world.add()
    environment, key_id = secret.split("_")[1:3]
    other = str(ApiKey.generate(environment, key_id))
    decisions = await world.check_all(
        [Check(key_id=key_id), Check(key_id), Check(other), Check(secret), Check(key_id="no id"), Check()]
    )
    assert [d.reason if isinstance(d, Decision) else str(d).partition(":")[0] for d in decisions] == [
        Reason.WITHIN_LIMIT,
        Reason.KEY_UNKNOWN,
        Reason.KEY_UNKNOWN,
        Reason.WITHIN_LIMIT,
        "key_id",
        "api_key",
    ]
    assert world.source.fetches == [[key_id]]


async def test_all_or_nothing(world: World) -> None:
    """A call that one limit denies takes nothing from the others, and names the limit with the longest wait."""
    key = world.add(burst(10), Limit("daily", Quota(3, Window.DAY)))
    for _ in range(3):
        assert (await world.check(key)).allowed
    denied = await world.check(key)
    assert denied.rules[denied.binding].limit.name == "daily"
    assert denied.results[0].remaining == 7 * MICRO
    assert denied.results[0].wait_us == 0


async def test_binding_limit_of_an_allowed_call_is_the_tightest(world: World) -> None:
    """An allowed call names the enforced limit with the smallest share left."""
    key = world.add(
        burst(10), burst(1_000, name="wide"), Limit("shadow", TokenBucket(1, 1, 1_000_000), mode=Mode.SHADOW)
    )
    decision = await world.check(key)
    assert decision.rules[decision.binding].limit.name == "burst"


async def test_the_tightest_limit_is_the_one_with_the_smallest_share(world: World) -> None:
    """900 of 100,000 left are tighter than 9 of 10, although they are more tokens."""
    key = world.add(burst(10, name="small", resource="orders.*"), burst(100_000, name="large"))
    await world.check(key, "users.get", cost=99_099)
    decision = await world.check(key, "orders.create")
    assert [result.remaining for result in decision.results] == [9 * MICRO, 900 * MICRO]
    assert decision.rules[decision.binding].limit.name == "large"


async def test_cost_above_capacity_never_fits(world: World) -> None:
    """A cost above the capacity is denied without a time to retry after, and takes nothing."""
    key = world.add()
    decision = await world.check(key, cost=21)
    assert (decision.reason, decision.retry_after_us) == (Reason.COST_EXCEEDS_CAPACITY, None)
    assert (await world.check(key, cost=20)).allowed


async def test_cost_zero_is_a_peek(world: World) -> None:
    """A cost of 0 is allowed even when nothing is left, and takes nothing."""
    key = world.add()
    await world.check(key, cost=20)
    for _ in range(3):
        decision = await world.check(key, cost=0)
        assert decision.allowed
        assert decision.results[0].remaining == 0


async def test_a_limit_of_calls_takes_one_whatever_a_call_costs(world: World) -> None:
    """Three calls a day and 1,000 tokens: the third call is the last, and each takes its cost from the tokens alone."""
    calls = Limit("calls", Quota(3, Window.DAY), counts=Counting.CALLS)
    key = world.add(calls, Limit("tokens", Quota(1_000, Window.DAY)))
    for cost in (100, 0, 300, 200):
        assert (await world.check(key, cost=cost)).allowed
    explained = await world.engine.explain(Check(key, cost=5))
    denied = await world.check(key, cost=5)
    for decision in (explained.decision, denied):
        assert (decision.reason, decision.rules[decision.binding].limit.name) == (Reason.OVER_LIMIT, "calls")
        assert [result.remaining for result in decision.results] == [0, 400 * MICRO]


async def test_shadow_limit_reports_but_does_not_deny(world: World) -> None:
    """Going over a shadow limit alone is allowed, and visible in the limit results."""
    key = world.add(Limit("trial", TokenBucket(1, 1, 1_000_000), mode=Mode.SHADOW))
    assert (await world.check(key)).results[0].wait_us == 0
    decision = await world.check(key)
    assert decision.allowed
    assert decision.results[0].wait_us > 0


async def test_a_shadow_limit_never_binds(world: World) -> None:
    """An enforced limit determines the decision, although a shadow limit has less left or waits longer."""
    shadow = Limit("trial", Quota(1, Window.DAY), mode=Mode.SHADOW)
    alone, beside = world.add(shadow, subject="alone"), world.add(burst(2), shadow)
    assert [(await world.check(alone)).binding for _ in range(2)] == [-1, -1]
    for _ in range(2):
        await world.check(beside)
    denied = await world.check(beside)
    assert [result.wait_us > 100_000 for result in denied.results] == [False, True]
    assert denied.rules[denied.binding].limit.name == "burst"
    assert (denied.reason, denied.retry_after_us) == (Reason.OVER_LIMIT, 100_000)


async def test_request_id_is_charged_once_and_bound_to_the_call(world: World) -> None:
    """The same call with the same id gets the first result; with another cost or resource it is another call."""
    key = world.add()
    first = await world.check(key, "r", request_id="a")
    again = await world.check(key, "r", request_id="a")
    assert first.results == again.results
    assert (await world.check(key, "r", cost=2, request_id="a")).results[0].remaining == 17 * MICRO
    assert (await world.check(key, "s", request_id="a")).results[0].remaining == 16 * MICRO
    assert (await world.check(key, "rs", request_id="a")).results[0].remaining == 15 * MICRO
    assert (await world.check(key, "r", request_id="sa")).results[0].remaining == 14 * MICRO


async def test_request_id_is_scoped_to_the_key(world: World) -> None:
    """Two keys of one subject may use the same id: each call is charged, to the bucket that they share."""
    decisions = [await world.check(world.add(), "r", request_id="a") for _ in range(2)]
    assert [decision.results[0].remaining for decision in decisions] == [19 * MICRO, 18 * MICRO]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"state": KeyState.REVOKED}, Reason.KEY_REVOKED),
        ({"state": KeyState.SUSPENDED}, Reason.KEY_SUSPENDED),
        ({"expires_us": START_US - 1}, Reason.KEY_EXPIRED),
    ],
)
async def test_refused_keys_need_no_round_trip(world: World, fields: dict[str, object], reason: Reason) -> None:
    """A revoked, suspended or expired key is denied with its reason, without a round trip to the buckets."""
    decision = await world.check(world.add(**fields))
    assert (decision.allowed, decision.reason, decision.source) == (False, reason, Source.POLICY)
    assert world.buckets.round_trips == 0


async def test_unknown_key_and_wrong_secret_are_indistinguishable(world: World) -> None:
    """A key that does not exist and one with a wrong secret get the same decision."""
    known = ApiKey.parse(world.add())
    for api_key in (ApiKey.generate("live"), ApiKey("live", known.key_id, ApiKey.generate("live").secret)):
        assert await world.check(str(api_key)) == Decision(
            allowed=False, reason=Reason.KEY_UNKNOWN, source=Source.POLICY
        )


async def test_a_wrong_secret_stays_unknown(world: World) -> None:
    """A wrong secret of a known key is not remembered as verified, however often it is sent."""
    right = world.add()
    wrong = str(ApiKey("live", ApiKey.parse(right).key_id, ApiKey.generate("live").secret))
    for _ in range(3):
        assert (await world.check(wrong)).reason is Reason.KEY_UNKNOWN
    assert (await world.check(right)).allowed
    assert (await world.check(wrong)).reason is Reason.KEY_UNKNOWN


async def test_malformed_key_is_unknown_without_a_read(world: World) -> None:
    """A key that fails its checksum is a denial like that of any unknown key, and never reaches the policy source."""
    mistyped = str(ApiKey.generate("live"))[:-1] + "!"
    for api_key in ("rlk_live_nonsense", "\ud800", mistyped):
        assert (await world.check(api_key)).reason is Reason.KEY_UNKNOWN
    assert world.source.fetches == []


async def test_no_key_is_an_error(world: World) -> None:
    """A check without any credential is an error of the caller, not a denial."""
    with pytest.raises(InvalidArgument) as error:
        await world.check("")
    assert error.value.violations[0].field == "api_key"


@pytest.mark.parametrize(
    ("check", "field"),
    [
        ({"resource": "x" * 257}, "resource"),
        ({"resource": "a\x00"}, "resource"),
        ({"cost": MAX_COST + 1}, "cost"),
        ({"cost": -1}, "cost"),
        ({"request_id": "é" * 65}, "request_id"),
    ],
)
async def test_bad_input_is_named_and_charges_nothing(world: World, check: dict[str, object], field: str) -> None:
    """A field out of bounds is named, and nothing is charged, whether the key is allowed, refused or unknown."""
    for key in (world.add(), world.add(state=KeyState.REVOKED), str(ApiKey.generate("live"))):
        with pytest.raises(InvalidArgument) as error:
            await world.check(key, **check)
        assert error.value.violations[0].field == field
    assert world.buckets.round_trips == 0


async def test_bounds_are_inclusive(world: World) -> None:
    """The longest resource, the highest cost and the longest request id are valid."""
    key = world.add(Limit("yearly", Quota(MAX_COST, Window.YEAR)))
    assert (await world.check(key, "x" * 256, MAX_COST, "é" * 64)).allowed
    assert not (await world.check(key)).allowed


async def test_no_limit_for_the_resource(world: World) -> None:
    """A resource to which no limit applies is allowed by the policy alone."""
    decision = await world.check(world.add(burst(resource="orders.*")), "users.get")
    assert (decision.allowed, decision.source, decision.binding) == (True, Source.POLICY, -1)


async def test_batch_in_order_with_one_round_trip(world: World) -> None:
    """A batch is decided in its order with one round trip, and an invalid check fails alone."""
    key = world.add(burst(2))
    results = await world.check_all(
        [
            Check(key),
            Check("junk"),
            Check(key, resource="\n"),
            Check(key),
            Check(key),
            Check(str(ApiKey.generate("live"))),
        ]
    )
    summary = [
        r.reason.name if isinstance(r, Decision) else r.violations[0].field
        for r in results
        if isinstance(r, (Decision, InvalidArgument))
    ]
    assert summary == ["WITHIN_LIMIT", "KEY_UNKNOWN", "resource", "WITHIN_LIMIT", "OVER_LIMIT", "KEY_UNKNOWN"]
    assert world.buckets.round_trips == 1
    assert len(world.source.fetches) == 1


async def test_rotated_secrets(world: World) -> None:
    """Both secrets are valid during the overlap; afterwards only the new one, although the old was verified before."""
    old = ApiKey.generate("live")
    new = ApiKey("live", old.key_id, ApiKey.generate("live").secret)
    until = START_US + 1_000_000
    overlap = PEPPERS.hash(old).__class__(1, PEPPERS.hash(old).digest, until)
    world.source.records[old.key_id] = record(old, secrets=(PEPPERS.hash(new), overlap))
    assert (await world.check(str(old))).allowed
    assert (await world.check(str(new))).allowed
    world.clock.time_us = until
    assert (await world.check(str(old))).reason is Reason.KEY_UNKNOWN
    assert (await world.check(str(new))).allowed


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (OnStoreFailure.LOCAL, Reason.WITHIN_LIMIT),
        (OnStoreFailure.ALLOW, Reason.DEGRADED_ALLOWED),
        (OnStoreFailure.DENY, Reason.DEGRADED_DENIED),
    ],
)
async def test_degraded_decisions_follow_the_plan(world: World, policy: OnStoreFailure, reason: Reason) -> None:
    """While the buckets are unavailable, decisions follow the plan, marked DEGRADED, single and in a batch."""
    key = world.add(on_store_failure=policy)
    world.buckets.down = True
    decision = await world.check(key)
    assert (decision.reason, decision.source) == (reason, Source.DEGRADED)
    (result,) = await world.check_all([Check(key)])
    assert isinstance(result, Decision)
    assert (result.reason, result.source) == (reason, Source.DEGRADED)


@pytest.mark.parametrize(
    ("cost", "reason"),
    [
        (5, Reason.WITHIN_LIMIT),
        (6, Reason.DEGRADED_DENIED),
        (20, Reason.DEGRADED_DENIED),
        (21, Reason.COST_EXCEEDS_CAPACITY),
    ],
)
async def test_a_cost_above_the_servers_share_may_fit_later(cost: int, reason: Reason) -> None:
    """While a server has a quarter of a limit, only a cost above the whole limit is reported as never fitting."""
    world = World(servers=4)
    key = world.add(burst(20))
    world.buckets.down = True
    assert (await world.check(key, cost=cost)).reason is reason


async def test_unreadable_policy_is_unavailable(world: World) -> None:
    """A key that is not cached cannot be decided while Postgres is down."""
    key = world.add()
    world.source.down = True
    with pytest.raises(Unavailable) as error:
        await world.check(key)
    assert error.value.reason == "POLICY_STORE_UNAVAILABLE"
    (result,) = await world.check_all([Check(key)])
    assert isinstance(result, ServiceError)


async def test_explain_previews_without_charging(world: World) -> None:
    """An explanation has the decision that the check then gets, and takes nothing."""
    key = world.add(burst(10), Limit("daily", Quota(50, Window.DAY)), burst(1, name="other", resource="x.*"))
    for cost in (4, 7, 3, 11, 1, 51):
        explanation = await world.engine.explain(Check(key, cost=cost))
        decision = await world.check(key, cost=cost)
        assert explanation.decision[:3] == decision[:3]
        assert explanation.decision.retry_after_us == decision.retry_after_us
        assert [r.remaining for r in explanation.decision.results] == [r.remaining for r in decision.results]
        assert [c.limit.name for c in explanation.considered] == ["burst", "daily", "other"]


async def test_explain_previews_shadow_limits(world: World) -> None:
    """A shadow limit without room does not deny the previewed call, and nothing is taken from it."""
    trial = Limit("trial", TokenBucket(5, 1, 1_000_000), mode=Mode.SHADOW)
    key = world.add(burst(10), trial)
    for _ in range(3):
        explanation = await world.engine.explain(Check(key, cost=2))
        decision = await world.check(key, cost=2)
        assert explanation.decision.allowed
        assert [r[:2] for r in explanation.decision.results] == [r[:2] for r in decision.results]
    assert decision.results[1].wait_us > 0


async def test_an_explanation_does_not_use_its_request_id(world: World) -> None:
    """A check with the request id of an explanation is charged like the first call with it."""
    check = Check(world.add(), request_id="a")
    await world.engine.explain(check)
    assert (await world.engine.check(check)).results[0].remaining == 19 * MICRO


async def test_explain_rounds_a_wait_up(world: World) -> None:
    """A wait that is not a whole number of microseconds is rounded up as in the check, so that it is long enough."""
    key = world.add(Limit("odd", TokenBucket(7, 7, 3_000_000)))
    await world.check(key, cost=7)
    explanation = await world.engine.explain(Check(key))
    assert explanation.decision.retry_after_us == 428_572  # 3,000,000 / 7 is 428,571.4
    assert explanation.decision.retry_after_us == (await world.check(key)).retry_after_us


async def test_tally(world: World) -> None:
    """Every decision is counted once, by reason and source."""
    key = world.add(burst(2))
    for _ in range(3):
        await world.check(key)
    await world.check_all([Check(key), Check("junk")])
    totals = world.engine.tally.totals()
    assert totals[Reason.WITHIN_LIMIT][Source.STORE] == 2
    assert totals[Reason.OVER_LIMIT][Source.STORE] == 2
    assert totals[Reason.KEY_UNKNOWN][Source.POLICY] == 1
    assert sum(map(sum, totals)) == 5


async def test_a_batch_that_fails_in_part_is_degraded_in_part(world: World) -> None:
    """Checks that were charged are decided by their buckets; only the others by their plans' `on_store_failure`."""
    keys = [world.add(on_store_failure=OnStoreFailure.DENY) for _ in range(3)]
    charge = world.buckets.charge

    async def fail_the_second(charges: Sequence[Charge], deadline: float | None = None) -> Sequence[ChargeResult]:  # noqa: ARG001
        first, _, third = await charge(charges)
        raise PartlyUnavailable("a node is down", [first, StoreUnavailable("a node is down"), third])

    world.buckets.charge = fail_the_second  # type: ignore[method-assign]
    decisions = await world.check_all([Check(key) for key in keys])
    assert [isinstance(d, Decision) and (d.reason, d.source) for d in decisions] == [
        (Reason.WITHIN_LIMIT, Source.STORE),
        (Reason.DEGRADED_DENIED, Source.DEGRADED),
        (Reason.WITHIN_LIMIT, Source.STORE),
    ]


@pytest.mark.parametrize(("deadline", "expected"), [(False, Overloaded), (True, DeadlineExceeded)])
async def test_overload_is_no_failure_of_the_store(world: World, deadline: bool, expected: type[ServiceError]) -> None:
    """A call that was not charged because its turn did not come is an error, whatever `on_store_failure` says."""
    key = world.add(on_store_failure=OnStoreFailure.ALLOW)

    async def time_out(_charges: Sequence[Charge], _deadline: float | None = None) -> Sequence[ChargeResult]:
        raise QueueTimeout("timed out in the queue", deadline=deadline)

    world.buckets.charge = time_out  # type: ignore[method-assign]
    with pytest.raises(expected):
        await world.check(key)
    assert [type(result) for result in await world.check_all([Check(key)] * 2)] == [expected] * 2


async def test_a_key_that_cannot_be_read_in_time_is_denied(world: World) -> None:
    """Alone and in a batch: DEGRADED_DENIED, to be tried again in a second, and never an error; others are decided."""
    known = world.add()
    assert (await world.check(known)).allowed
    world.source.before_answer = asyncio.Event()
    unseen = Check(world.add())
    soon = monotonic() + 0.02
    alone = await world.engine.check(unseen, soon)
    batch = await world.engine.decide_all(await world.engine.prepare_all([unseen, Check(known)], soon))
    assert [alone, batch[0]] == [UNDECIDED] * 2
    assert alone.retry_after_us == 1_000_000
    assert isinstance(batch[1], Decision)
    assert batch[1].allowed
    assert world.engine.tally.totals()[Reason.DEGRADED_DENIED][Source.DEGRADED] == 2
    with pytest.raises(LookupDeferred):
        await world.engine.explain(Check(str(ApiKey.generate("live"))))
    world.source.before_answer.set()


async def test_an_explanation_names_the_cause(world: World) -> None:
    """A limit that does not apply has the cause: other resources, a refused key, or a hold that is not there."""
    slots = Limit("slots", Concurrency(3, MICRO), mode=Mode.SHADOW)
    limits = burst(10), burst(1, name="other", resource="x.*"), slots

    async def causes(key: str, resource: str = "a") -> dict[str, str]:
        explanation = await world.engine.explain(Check(key, resource=resource))
        return {explained.limit.name: explained.why_not for explained in explanation.limits()}

    assert await causes(world.add(*limits)) == {"burst": "", "other": "resource", "slots": "hold"}
    suspended = world.add(*limits, state=KeyState.SUSPENDED)
    assert await causes(suspended) == {"burst": "KEY_SUSPENDED", "other": "resource", "slots": "KEY_SUSPENDED"}
    assert (await causes(suspended, "x.y"))["other"] == "KEY_SUSPENDED"
    enforced = replace(slots, mode=Mode.ENFORCE)
    assert await causes(world.add(enforced)) == {"slots": ""}
    overridden = world.add(*limits, key_overrides=(Override(burst(5)), Override(burst(6, name="other"), START_US - 1)))
    explanation = await world.engine.explain(Check(overridden, resource="x.y"))
    assert [(one.limit.name, one.level, one.why_not) for one in explanation.limits()] == [
        ("burst", Level.PLAN, "overridden by key"),
        ("burst", Level.KEY, ""),
        ("other", Level.PLAN, ""),
        ("other", Level.KEY, "expired"),
        ("slots", Level.PLAN, "hold"),
    ]


async def test_a_share_names_the_limit_that_a_cost_exceeds_itself() -> None:
    """Of two limits whose shares a cost exceeds, the one that it exceeds with the store, too, is the reason."""
    world = World(servers=10)
    world.buckets.down = True
    key = world.add(burst(100, name="large"), burst(10, name="small"))
    decision = await world.check(key, cost=50)
    assert decision.reason is Reason.COST_EXCEEDS_CAPACITY
    assert decision.rules[decision.binding].limit.name == "small"
    fits_once_back = await world.check(world.add(burst(100, name="large"), burst(60, name="small")), cost=50)
    assert fits_once_back.reason is Reason.DEGRADED_DENIED
