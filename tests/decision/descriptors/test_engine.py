"""Decisions on descriptors: one charge for a request, and a status for each descriptor."""

import asyncio
from time import monotonic

import pytest

from decision.descriptors.world import (
    ALLOW,
    BLOCKED,
    DENY,
    LOCAL,
    SHADOW,
    UNLIMITED,
    RuleNode,
    World,
    bucket,
    describe,
    is_unlimited,
    node,
    quota,
)
from decision.memory import burst
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.charge import NEVER
from ratelimit_service.decision.descriptors.request import MAX_HITS, DescribedRequest, Descriptor
from ratelimit_service.decision.descriptors.rules import (
    Blocked,
    DomainRules,
    RuleCharge,
    RuleLimit,
    RuleOnStoreFailure,
    Unlimited,
)
from ratelimit_service.decision.limit import MICRO, Counting, Quota, Window
from ratelimit_service.decision.ports import Change, ChangeKind
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.decision.record import KeyState, OnStoreFailure
from ratelimit_service.errors import InvalidArgument, Unavailable

A, B, C = ("a", "1"), ("b", "1"), ("c", "1")


async def test_one_denied_descriptor_charges_none() -> None:
    """A request with three descriptors of which one is denied charges none, and each has its own status, in order."""
    world = World(node("a", "", quota(5)), node("b", "", quota(1)), node("c", "", quota(9)))
    await world.decide(describe(B))
    decision = await world.decide(describe(A), describe(B), describe(C))
    assert not decision.allowed
    assert [status.allowed for status in decision.statuses] == [True, False, True]
    assert [status.remaining for status in decision.statuses] == [5, 0, 9]
    assert [await world.left(entry) for entry in (A, B, C)] == [5, 0, 9]
    assert decision.retry_after_us == decision.statuses[1].wait_us > 0


async def test_the_wait_is_that_of_the_slowest() -> None:
    """The retry time of a request is the longest wait of its denied descriptors, and then all of them fit."""
    world = World(node("a", "", bucket(1)), node("b", "", bucket(3)), node("c", "", bucket(2)))
    request = (describe(A), describe(B, hits=3), describe(C, hits=2))
    await world.decide(*request)
    decision = await world.decide(*request)
    assert [status.wait_us for status in decision.statuses] == [1_000_000, 3_000_000, 2_000_000]
    assert decision.retry_after_us == 3_000_000
    world.clock.time_us += decision.retry_after_us
    assert (await world.decide(*request)).allowed


async def test_all_are_charged_together_in_one_round_trip() -> None:
    """A request that is allowed charges every descriptor its own hits, in one round trip to the store."""
    world = World(node("a", "", quota(5)), node("b", "", quota(9)))
    await world.rules.refresh_all()
    decision = await world.decide(describe(A, hits=2), describe(B, hits=3))
    assert world.buckets.round_trips == 1
    assert decision.allowed
    assert decision.retry_after_us is None
    assert [status.remaining for status in decision.statuses] == [3, 6]
    assert {status.source for status in decision.statuses} == {Source.STORE}


async def test_nothing_matches() -> None:
    """A descriptor without a rule is allowed without a limit and a round trip, in a known domain and an unknown one."""
    world = World(node("a", "", quota(5)), node("pass", ""))
    for domain, entry in (("shop", ("x", "1")), ("shop", ("pass", "1")), ("nowhere", A)):
        decision = await world.decide(describe(entry), domain=domain)
        assert decision.allowed
        assert decision.statuses[0].limit is None
    assert world.buckets.round_trips == 0


async def test_unlimited_and_blocked() -> None:
    """Unlimited always fits and is reported as such. Blocked never fits, and no wait helps, but it may be peeked at."""
    world = World(node("a", "", UNLIMITED), node("b", "", BLOCKED), node("c", "", quota(5)))
    decision = await world.decide(describe(A, hits=1_000_000))
    assert decision.allowed
    assert is_unlimited(decision.statuses[0])
    decision = await world.decide(describe(B), describe(C))
    assert not decision.allowed
    assert decision.retry_after_us is None
    assert [status.reason for status in decision.statuses] == [Reason.COST_EXCEEDS_CAPACITY, Reason.WITHIN_LIMIT]
    assert not is_unlimited(decision.statuses[0])
    assert await world.left(C) == 5
    assert (await world.decide(describe(B, hits=0), describe(C, hits=-1))).allowed


async def test_several_limits_on_denial_the_longest_reset() -> None:
    """Of several limits that deny, the one that takes longest to be untouched again is reported."""
    rules = node("a", "", bucket(1, name="burst"), quota(1, name="daily"), quota(9, Window.YEAR, name="yearly"))
    world = World(rules)
    await world.decide(describe(A))
    status = (await world.decide(describe(A))).statuses[0]
    assert status.limit.name == "daily"
    assert status.remaining == 0
    assert status.reset_us > 1_000_000
    assert len(status.limits) == len(status.results) == 3


async def test_several_limits_on_allow_the_smallest_share() -> None:
    """Of several limits that fit, the one with the smallest share left is reported, shadow limits last."""
    world = World(
        node("a", "", quota(100, name="hundred"), quota(4, name="four"), quota(2, name="two", mode=SHADOW)),
        node("b", "", quota(2, name="two", mode=SHADOW)),
    )
    status = (await world.decide(describe(A))).statuses[0]
    assert (status.limit.name, status.remaining) == ("four", 3)
    status = (await world.decide(describe(B))).statuses[0]
    assert (status.limit.name, status.remaining) == ("two", 1)


async def test_the_smallest_share_is_not_the_fewest_tokens() -> None:
    """49 of 100 left are a smaller share than 9 of 10, although they are more tokens."""
    world = World(node("a", "", bucket(10, 10, name="burst"), quota(100, name="daily")))
    for _ in range(10):
        await world.decide(describe(A, hits=5))
        world.clock.time_us += 1_000_000
    status = (await world.decide(describe(A))).statuses[0]
    assert [result.remaining for result in status.results] == [9_000_000, 49_000_000]
    assert (status.limit.name, status.remaining) == ("daily", 49)


async def test_shadow_never_denies() -> None:
    """A shadow limit, even a blocked one, denies nothing, and does not keep the others from being charged."""
    blocked = RuleLimit(Blocked(), mode=SHADOW)
    world = World(node("a", "", quota(1, mode=SHADOW)), node("b", "", quota(9)), node("c", "", blocked))
    for left in (8, 7, 6):
        decision = await world.decide(describe(A), describe(B), describe(C))
        assert decision.allowed
        assert decision.statuses[1].remaining == left
    assert decision.statuses[0].results[0].wait_us > 0


async def test_replaces() -> None:
    """When a limit applies, those it replaces do not, at any position in the request."""
    world = World(
        node("a", "", quota(5, name="usual")),
        node("b", "", quota(10, name="special", replaces=("usual",))),
        node("c", "", UNLIMITED),
    )
    for order in ((describe(A), describe(B)), (describe(B), describe(A))):
        decision = await world.decide(*order)
        assert {status.limit.name for status in decision.statuses if status.limit} == {"special"}
    assert await world.left(A) == 5
    assert await world.left(B) == 8


async def test_a_limit_of_a_plan_is_never_replaced() -> None:
    """A rule that replaces a name leaves a plan's limit of that name in force."""
    world = World(node("a", "", quota(9, name="special", replaces=("orders",))))
    by_key = describe(("api_key", str(world.add_key(burst(1, name="orders")))))
    assert [(await world.decide(by_key, describe(A))).allowed for _ in range(2)] == [True, False]


async def test_replaced_by_unlimited() -> None:
    """An unlimited or blocked limit replaces others and is replaced like any other."""
    free = UNLIMITED.__class__(UNLIMITED.algorithm, name="free", replaces=("usual", "never"))
    never = BLOCKED.__class__(BLOCKED.algorithm, name="never")
    world = World(node("a", "", quota(1, name="usual")), node("b", "", free), node("c", "", never))
    for _ in range(3):
        assert (await world.decide(describe(A), describe(B), describe(C))).allowed
    assert not (await world.decide(describe(A), describe(C))).allowed
    assert await world.left(A) == 1


async def test_peeks_and_refunds() -> None:
    """0 hits are a peek. Negative ones refund, at most up to an untouched bucket, and are never denied."""
    world = World(node("a", "", quota(5)), node("b", "", quota(1)))
    await world.decide(describe(A, hits=4))
    assert (await world.decide(describe(A, hits=0))).statuses[0].remaining == 1
    assert (await world.decide(describe(A, hits=-2))).statuses[0].remaining == 3
    decision = await world.decide(describe(A, hits=-1_000))
    assert decision.allowed
    assert decision.statuses[0].remaining == 5
    await world.decide(describe(A, hits=5))
    await world.decide(describe(B))
    assert not (await world.decide(describe(A, hits=-3), describe(B))).allowed
    assert await world.left(A) == 0


async def test_one_bucket_twice() -> None:
    """Two descriptors with one bucket are charged together: the limit applies to their sum."""
    world = World(node("a", "", quota(5)))
    assert not (await world.decide(describe(A, hits=3), describe(A, hits=3))).allowed
    assert await world.left(A) == 5
    assert (await world.decide(describe(A, hits=3), describe(A, hits=2))).allowed
    assert await world.left(A) == 0


async def test_a_limit_of_calls_takes_one_whatever_the_hits() -> None:
    """Each descriptor takes one call, none if it peeks, and a refund restores tokens but no call."""
    calls = RuleLimit(Quota(3, Window.DAY), "calls", counts=Counting.CALLS)
    world = World(node("a", "", RuleLimit(Quota(100, Window.DAY), "tokens"), calls))
    for hits, left in ((40, 2), (0, 2), (-10, 2), (20, 1), (5, 0)):
        status = (await world.decide(describe(A, hits=hits))).statuses[0]
        assert (status.allowed, status.results[1].remaining) == (True, left * MICRO)
    status = (await world.decide(describe(A, hits=2))).statuses[0]
    assert (status.reason, status.limit.name) == (Reason.OVER_LIMIT, "calls")
    assert status.results[0].remaining == 45 * MICRO


@pytest.mark.parametrize("algorithm", [Blocked(), Unlimited()], ids=str)
def test_what_counts_nothing_counts_no_calls(algorithm: Blocked | Unlimited) -> None:
    """A limit without a bucket cannot count calls."""
    with pytest.raises(InvalidArgument, match="counts nothing"):
        RuleLimit(algorithm, counts=Counting.CALLS)


async def test_rules_that_charge_always_record_a_debt() -> None:
    """Charged whatever the limits have, up to the overdraft; nodes inherit it, and one may decide otherwise."""
    owing = RuleLimit(Quota(10, Window.DAY), overdraft=20)
    always = RuleNode("a", "", (owing,), charge=RuleCharge.ALWAYS)
    at_once = RuleNode("b", "", (quota(5),), descriptors=(RuleNode("c", "", (quota(5),)),))
    world = World(always, at_once)
    first = await world.decide(describe(A, hits=25))
    status = first.statuses[0]
    assert (first.allowed, status.reason, status.results[0].remaining) == (False, Reason.OVER_LIMIT, -15 * MICRO)
    both = await world.decide(describe(B, hits=2), describe(A, hits=3), describe(B, hits=4))
    assert [status.allowed for status in both.statuses] == [False, False, False]
    assert await world.left(B) == 5
    peeked = await world.decide(describe(A, hits=0))
    assert (peeked.allowed, peeked.statuses[0].results[0].remaining) == (False, -18 * MICRO)
    refunded = await world.decide(describe(A, hits=-9))
    assert (refunded.allowed, refunded.statuses[0].remaining) == (True, 0)
    assert (await world.decide(describe(B, hits=2), describe(A, hits=-28))).allowed
    assert await world.left(A) == 10


async def test_hits_of_one_bucket_beyond_what_stores_compute_with() -> None:
    """The hits of many descriptors for one limit are summed exactly: a sum that no limit holds is denied for ever."""
    world = World(node("a", "", RuleLimit(Quota(MAX_HITS, Window.YEAR))))
    most, refund = describe(A, hits=MAX_HITS), describe(A, hits=-MAX_HITS)
    for denied in ([most, describe(A)], [most] * 128, [describe(A), most, *[refund, most] * 60]):
        decision = await world.decide(*denied)
        assert (decision.allowed, decision.statuses[0].wait_us) == (False, NEVER)
    assert await world.left(A) == MAX_HITS
    assert (await world.decide(most, refund, describe(A))).allowed
    assert await world.left(A) == MAX_HITS - 1
    assert (await world.decide(*[refund] * 128)).allowed
    assert await world.left(A) == MAX_HITS


async def test_override_of_the_request() -> None:
    """A request's own limit applies in place of the rules', in any domain, and is always enforced."""
    world = World(node("a", "", quota(5, mode=SHADOW)), node("b", "", UNLIMITED))
    for domain, entry in (("shop", A), ("shop", B), ("shop", ("x", "1")), ("nowhere", A)):
        two = describe(entry, override=Quota(2, Window.DAY))
        allowed = [(await world.decide(two, domain=domain)).allowed for _ in range(3)]
        assert allowed == [True, True, False]
        assert not (await world.decide(describe(entry, override=Blocked()), domain=domain)).allowed


async def test_more_than_the_limit_never_fits() -> None:
    """Hits above the limit are denied, with the reason that no wait helps."""
    world = World(node("a", "", quota(5)))
    decision = await world.decide(describe(A, hits=6))
    assert decision.statuses[0].reason is Reason.COST_EXCEEDS_CAPACITY
    assert decision.statuses[0].wait_us == NEVER
    assert decision.retry_after_us is None


async def test_a_limit_that_never_fits_beside_one_that_will() -> None:
    """No wait helps when the hits are more than one of the limits, although another one only asks for a wait."""
    small, burst_of_five = quota(2, name="small"), bucket(5, name="burst")
    for limits in ((small, burst_of_five), (burst_of_five, small)):
        world = World(node("a", "", *limits))
        await world.decide(describe(A, hits=2))
        decision = await world.decide(describe(A, hits=4))
        assert {result.wait_us for result in decision.statuses[0].results} == {NEVER, 1_000_000}
        assert (decision.statuses[0].reason, decision.retry_after_us) == (Reason.COST_EXCEEDS_CAPACITY, None)


async def test_waits_of_those_not_charged() -> None:
    """When a request is denied without its buckets, the other statuses still have the wait that they would have had."""
    world = World(node("a", "", BLOCKED), node("b", "", quota(1)), node("c", "", bucket(2, refill=1)))
    await world.decide(describe(B), describe(C))
    statuses = (await world.decide(describe(A), describe(B), describe(C, hits=2))).statuses
    assert [status.allowed for status in statuses] == [False, False, False]
    assert statuses[2].wait_us == 1_000_000
    assert await world.left(C) == 1


async def test_a_key_is_decided_by_its_plan() -> None:
    """A descriptor with an API key is decided by that key's plan, by resource, and by no rule."""
    world = World(node("api_key", "", quota(1)), node("a", "", quota(9)))
    key = world.add_key(burst(2, name="orders", resource="orders.*"), burst(50, name="all"))
    by_key = describe(("api_key", str(key)), ("resource", "orders.create"))
    decisions = [await world.decide(by_key, describe(A)) for _ in range(3)]
    assert [decision.allowed for decision in decisions] == [True, True, False]
    assert decisions[2].statuses[0].limit.name == "orders"
    assert decisions[2].statuses[0].policy.key_id == key.key_id
    assert await world.left(A) == 7
    assert (await world.decide(describe(("api_key", str(key))))).statuses[0].remaining == 47


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"state": KeyState.REVOKED}, Reason.KEY_REVOKED),
        ({"state": KeyState.SUSPENDED}, Reason.KEY_SUSPENDED),
        ({"expires_us": 1}, Reason.KEY_EXPIRED),
    ],
)
async def test_a_refused_key(fields: dict[str, object], reason: Reason) -> None:
    """A key that is revoked, suspended or expired denies the request for that reason, and nothing is charged."""
    world = World(node("a", "", quota(9)))
    decision = await world.decide(describe(("api_key", str(world.add_key(**fields)))), describe(A))
    assert [status.reason for status in decision.statuses] == [reason, Reason.WITHIN_LIMIT]
    assert not decision.allowed
    assert decision.retry_after_us is None
    assert await world.left(A) == 9


@pytest.mark.parametrize(
    "text", ["", "nonsense", "rlk_live_x_y", pytest.param(str(ApiKey.generate("live")), id="unknown")]
)
async def test_an_unknown_or_malformed_key_is_denied(text: str) -> None:
    """An unknown or malformed key denies the request: on an error a proxy that fails open would let it through."""
    decision = await World().decide(describe(("api_key", text)))
    assert decision.statuses[0].reason is Reason.KEY_UNKNOWN
    assert not decision.allowed


async def test_a_resource_of_any_length_is_limited() -> None:
    """A client cannot evade the limit of a prefix by a long or strange path."""
    world = World()
    key = world.add_key(burst(1, name="orders", resource="/orders/*"))
    decisions = [
        await world.decide(describe(("api_key", str(key)), ("resource", f"/orders/{path}")))
        for path in ("x" * 5_000, "\u00e9" * 5_000, "a\x00b", "")
    ]
    assert [decision.allowed for decision in decisions] == [True, False, False, False]


@pytest.mark.parametrize(
    ("descriptors", "field"),
    [
        ((), "descriptors"),
        ((describe(A),) * 129, "descriptors"),
        ((describe(),), "descriptors[0].entries"),
        ((describe(A), describe(*(A,) * 17)), "descriptors[1].entries"),
        ((describe(A, ("", "1")),), "descriptors[0].entries[1].key"),
        ((describe(("k" * 257, "1")),), "descriptors[0].entries[0].key"),
        ((describe(("\u00e9" * 129, "1")),), "descriptors[0].entries[0].key"),
        ((describe(A, hits=MAX_HITS + 1),), "descriptors[0].hits_addend"),
        ((describe(A, hits=-MAX_HITS - 1),), "descriptors[0].hits_addend"),
        ((describe(("api_key", "x"), A),), "descriptors[0].entries[1].key"),
        ((describe(("api_key", "x"), ("api_key", "y")),), "descriptors[0].entries[1].key"),
        ((describe(("api_key", "x"), override=Quota(1, Window.DAY)),), "descriptors[0].limit"),
    ],
)
async def test_bad_input_names_the_field(descriptors: tuple[Descriptor, ...], field: str) -> None:
    """A request out of bounds is rejected with the invalid field, and nothing is charged."""
    world = World(node("a", "", quota(9)))
    with pytest.raises(InvalidArgument) as caught:
        await world.decide(*descriptors)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert world.buckets.round_trips == 0


@pytest.mark.parametrize("domain", ["", "d" * 257])
async def test_bad_domain(domain: str) -> None:
    """A domain that is empty or too long is rejected."""
    with pytest.raises(InvalidArgument) as caught:
        await World().decide(describe(A), domain=domain)
    assert caught.value.violations[0].field == "domain"


async def test_bounds_are_inclusive() -> None:
    """32 descriptors of 16 entries, keys of 256 bytes and values of any length are valid."""
    entry = ("k" * 256, "v" * 60_000)
    world = World(node("k" * 256, "", quota(1)))
    assert (await world.decide(*[describe(*(entry,) * 16)] * 32, domain="d" * 256)).allowed
    assert (await world.decide(describe(entry))).allowed
    assert not (await world.decide(describe(entry))).allowed


def failing(*nodes: RuleNode, **fields: object) -> World:
    """A world with its shared buckets down."""
    world = World(*nodes, **fields)
    world.buckets.down = True
    return world


async def test_store_failure_fails_by_default() -> None:
    """By default an unavailable store is an error, so that the proxy's own failure mode applies."""
    world = failing(node("a", "", quota(9)), node("b", "", quota(9), on_store_failure=ALLOW))
    with pytest.raises(Unavailable) as caught:
        await world.decide(describe(A), describe(B))
    assert caught.value.reason == "BUCKET_STORE_UNAVAILABLE"
    assert (await world.decide(describe(B))).statuses[0].reason is Reason.DEGRADED_ALLOWED
    assert (await world.decide(describe(("x", "1")))).allowed


async def test_store_failure_by_rule() -> None:
    """ALLOW allows, DENY denies, LOCAL uses this server's own buckets, which are charged only if nothing is denied."""
    world = failing(
        node("a", "", quota(2), on_store_failure=LOCAL),
        node("b", "", quota(9), on_store_failure=DENY),
        node("c", "", quota(9), on_store_failure=ALLOW),
    )
    decision = await world.decide(describe(A), describe(B), describe(C))
    reasons = [status.reason for status in decision.statuses]
    assert reasons == [Reason.WITHIN_LIMIT, Reason.DEGRADED_DENIED, Reason.DEGRADED_ALLOWED]
    assert {status.source for status in decision.statuses} == {Source.DEGRADED}
    allowed = [(await world.decide(describe(A), describe(C))).allowed for _ in range(3)]
    assert allowed == [True, True, False]


@pytest.mark.parametrize("on_store_failure", list(RuleOnStoreFailure))
async def test_what_is_charged_afterwards_is_noted_while_the_store_is_away(
    on_store_failure: RuleOnStoreFailure,
) -> None:
    """Whatever the rules say, and by no error: who makes it ignores the response, and would repeat what failed."""
    owing = RuleLimit(Quota(10, Window.DAY), overdraft=20)
    always = RuleNode("a", "", (owing,), on_store_failure=on_store_failure, charge=RuleCharge.ALWAYS)
    world = failing(always)
    decision = await world.decide(describe(A, hits=12))
    assert decision.allowed == (on_store_failure is RuleOnStoreFailure.ALLOW)
    spent = world.engine._local.unreported(10)  # type: ignore[attr-defined]
    assert [each.tokens for each in spent] == [12]
    (row,) = world.usage.take(10)
    assert row.counts[:5] == [1, 12, 0, 0, 1]


async def test_what_fails_beside_a_charge_made_afterwards_is_denied() -> None:
    """Not an error, whose repeat would charge again what was noted."""
    owing = RuleLimit(Quota(10, Window.DAY), overdraft=20)
    world = failing(RuleNode("a", "", (owing,), charge=RuleCharge.ALWAYS), node("b", "", quota(9)))
    decision = await world.decide(describe(A, hits=12), describe(B), describe(A, hits=0))
    assert [status.reason for status in decision.statuses] == [Reason.DEGRADED_DENIED] * 3
    assert [each.tokens for each in world.engine._local.unreported(10)] == [12]  # type: ignore[attr-defined]


async def test_a_charge_whose_key_is_not_read_in_time() -> None:
    """Is one that was not made, unless another descriptor admits the call: an error would let that pass."""
    world = World()
    nodes = (node("b", "", quota(9), charge=RuleCharge.IF_ALLOWED),)
    world.source.rules["shop"] = DomainRules("shop", nodes, charge=RuleCharge.ALWAYS)
    await world.rules.refresh_all()
    key = str(world.add_key())
    world.policies.before_answer = asyncio.Event()

    async def uncharged(*descriptors: Descriptor) -> bool:
        request = DescribedRequest("shop", descriptors)
        return (await world.engine.prepare(request, monotonic() + 0.02)).uncharged is not None

    assert await uncharged(describe(("api_key", key), hits=3))
    assert not await uncharged(describe(("api_key", key), hits=0))
    assert not await uncharged(describe(("api_key", key), hits=3), describe(B))
    assert world.engine.charges_afterwards(DescribedRequest("shop", [describe(("api_key", key), hits=3)]))
    assert not world.engine.charges_afterwards(DescribedRequest("shop", [describe(("api_key", key), hits=0)]))
    assert not world.engine.charges_afterwards(DescribedRequest("shop", [describe(B)]))
    world.policies.before_answer.set()


async def test_store_failure_of_a_plan() -> None:
    """A key's descriptor follows the plan's `on_store_failure`."""
    world = failing()
    for on_store_failure, reason in (
        (OnStoreFailure.ALLOW, Reason.DEGRADED_ALLOWED),
        (OnStoreFailure.DENY, Reason.DEGRADED_DENIED),
        (OnStoreFailure.LOCAL, Reason.WITHIN_LIMIT),
    ):
        key = world.add_key(on_store_failure=on_store_failure)
        decision = await world.decide(describe(("api_key", str(key))))
        assert decision.statuses[0].reason is reason
        assert decision.statuses[0].policy is not None


async def test_store_failure_denies_nothing_that_is_not_enforced() -> None:
    """DENY does not deny what is never denied: a peek, a refund, a shadow limit."""
    world = failing(
        node("a", "", quota(2), on_store_failure=DENY), node("b", "", quota(2, mode=SHADOW), on_store_failure=DENY)
    )
    assert (await world.decide(describe(A, hits=0), describe(A, hits=-1), describe(B))).allowed


async def test_store_failure_denies_by_one_enforced_limit() -> None:
    """DENY denies where one of several limits is enforced."""
    limits = (quota(2, name="trial", mode=SHADOW), quota(2, name="daily"))
    world = failing(node("a", "", *limits, on_store_failure=DENY))
    assert (await world.decide(describe(A))).statuses[0].reason is Reason.DEGRADED_DENIED


@pytest.mark.parametrize(
    ("hits", "reason"),
    [
        (5, Reason.WITHIN_LIMIT),
        (6, Reason.DEGRADED_DENIED),
        (20, Reason.DEGRADED_DENIED),
        (21, Reason.COST_EXCEEDS_CAPACITY),
    ],
)
async def test_hits_above_the_servers_share_may_fit_later(hits: int, reason: Reason) -> None:
    """While a server has a quarter of a limit, only hits above the whole limit are reported as never fitting."""
    limits = (bucket(20, name="burst"), quota(4, name="trial", mode=SHADOW))
    for nodes in ((node("a", "", *limits),), (node("a", "", *limits), node("b", "", quota(100)))):
        world = failing(*nodes, on_store_failure=LOCAL, servers=4)
        decision = await world.decide(describe(A, hits=hits), *[describe(B)] * (len(nodes) - 1))
        assert decision.statuses[0].reason is reason


async def test_what_is_prepared_ends_with_its_policies_and_rules() -> None:
    """A prepared request stays valid as long as its key and rules do; without a known key or rules it never does."""
    world = World(node("a", "", quota(5)))
    await world.rules.refresh_all()
    known, unknown = (describe(("api_key", str(key))) for key in (world.add_key(), ApiKey.generate("live")))
    for descriptors, domain, lasts in (
        ((describe(A), known), "shop", True),
        ((describe(A), unknown), "shop", False),
        ((known, describe(A)), "nowhere", False),
    ):
        prepared = await world.engine.prepare(DescribedRequest(domain, descriptors))
        assert all(validity.is_current(world.clock) for validity in prepared.validities) is lasts


async def test_rules_that_were_never_read() -> None:
    """While the rules are not known a request fails, unless it has only a key, which needs none."""
    world = World(node("a", "", quota(2)))
    key = world.add_key()
    with pytest.raises(Unavailable) as caught:
        await world.engine.decide(await world.engine.prepare(DescribedRequest("shop", [describe(A)])))
    assert caught.value.reason == "POLICY_STORE_UNAVAILABLE"
    assert (
        await world.engine.decide(
            await world.engine.prepare(DescribedRequest("shop", [describe(("api_key", str(key)))]))
        )
    ).allowed


async def test_statuses_are_counted() -> None:
    """Every status is counted, by reason and source."""
    world = World(node("a", "", quota(1)))
    for _ in range(3):
        await world.decide(describe(A), describe(("x", "1")))
    assert world.engine.tally.totals()[Reason.OVER_LIMIT][Source.STORE] == 2
    assert world.engine.tally.totals()[Reason.WITHIN_LIMIT][Source.STORE] == 1
    assert world.engine.tally.totals()[Reason.WITHIN_LIMIT][Source.POLICY] == 3


async def test_keys_that_cannot_be_read_in_time_are_denied() -> None:
    """All the keys of a request are read together; those that are not read in time are denied, for a second."""
    world = World()
    keys = [world.add_key() for _ in range(3)]
    request = DescribedRequest("shop", [describe(("api_key", str(key))) for key in keys])
    await world.rules.refresh_all()
    world.policies.before_answer = asyncio.Event()
    decision = await world.engine.decide(await world.engine.prepare(request, monotonic() + 0.02))
    assert not decision.allowed
    assert decision.retry_after_us == 1_000_000
    assert {(status.reason, status.source) for status in decision.statuses} == {
        (Reason.DEGRADED_DENIED, Source.DEGRADED)
    }
    assert [len(fetch) for fetch in world.policies.fetches] == [3]
    world.policies.before_answer.set()
    assert (await world.engine.decide(await world.engine.prepare(request))).allowed


async def test_rules_that_cannot_be_read_are_not_taken_for_none() -> None:
    """A domain with rows that are not valid, and no valid rules from before, is denied; others are not."""
    world = World(node("a", "", quota(5)))
    await world.rules.refresh_all()
    world.source.unreadable = {"bad"}
    await world.rules.apply([Change(ChangeKind.DOMAIN, "bad")])
    entries = (("a", "1"),)
    for descriptor in (Descriptor(entries), Descriptor(entries, override=Quota(5, Window.DAY))):
        request = DescribedRequest("bad", (descriptor,))
        prepared = await world.engine.prepare(request)
        decision = await world.engine.decide(prepared)
        assert not decision.allowed
        assert [status[:3] for status in decision.statuses] == [(False, Reason.DEGRADED_DENIED, Source.DEGRADED)]
        assert decision.retry_after_us == 1_000_000
        assert not any(validity.is_current(world.clock) for validity in prepared.validities)
    await world.rules.close()
