"""Decisions on descriptors: one charge for a request, and an answer for each descriptor."""

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
    asked,
    bucket,
    node,
    quota,
)
from decision.memory import burst
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.charge import NEVER
from ratelimit_service.decision.descriptors.request import DescribedRequest, Descriptor
from ratelimit_service.decision.descriptors.rules import Blocked, RuleLimit
from ratelimit_service.decision.limit import Quota, Window
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.decision.record import KeyState, OnStoreFailure
from ratelimit_service.errors import InvalidArgument, Unavailable

A, B, C = ("a", "1"), ("b", "1"), ("c", "1")


async def test_one_denied_descriptor_burns_none() -> None:
    """A request with three descriptors of which one is denied charges none, and each has its own answer, in order."""
    world = World(node("a", "", quota(5)), node("b", "", quota(1)), node("c", "", quota(9)))
    await world.decide(asked(B))
    verdict = await world.decide(asked(A), asked(B), asked(C))
    assert not verdict.allowed
    assert [status.allowed for status in verdict.statuses] == [True, False, True]
    assert [status.remaining for status in verdict.statuses] == [5, 0, 9]
    assert [await world.left(entry) for entry in (A, B, C)] == [5, 0, 9]
    assert verdict.retry_after_us == verdict.statuses[1].wait_us > 0


async def test_the_wait_is_that_of_the_slowest() -> None:
    """Of several denied descriptors the one that waits longest says when to come again, and then all of them fit."""
    world = World(node("a", "", bucket(1)), node("b", "", bucket(3)), node("c", "", bucket(2)))
    request = (asked(A), asked(B, hits=3), asked(C, hits=2))
    await world.decide(*request)
    verdict = await world.decide(*request)
    assert [status.wait_us for status in verdict.statuses] == [1_000_000, 3_000_000, 2_000_000]
    assert verdict.retry_after_us == 3_000_000
    world.clock.time_us += verdict.retry_after_us
    assert (await world.decide(*request)).allowed


async def test_all_are_charged_together_in_one_trip() -> None:
    """A request that is allowed charges every descriptor its own hits, in one trip to the store."""
    world = World(node("a", "", quota(5)), node("b", "", quota(9)))
    await world.rules.refresh_all()
    verdict = await world.decide(asked(A, hits=2), asked(B, hits=3))
    assert world.buckets.round_trips == 1
    assert verdict.allowed
    assert verdict.retry_after_us is None
    assert [status.remaining for status in verdict.statuses] == [3, 6]
    assert {status.source for status in verdict.statuses} == {Source.STORE}


async def test_nothing_matches() -> None:
    """A descriptor that no rule is for passes without a limit and without a trip, in a known domain and another."""
    world = World(node("a", "", quota(5)), node("pass", ""))
    for domain, entry in (("shop", ("x", "1")), ("shop", ("pass", "1")), ("nowhere", A)):
        verdict = await world.decide(asked(entry), domain=domain)
        assert verdict.allowed
        assert verdict.statuses[0].limit is None
    assert world.buckets.round_trips == 0


async def test_unlimited_and_blocked() -> None:
    """Unlimited always fits and says so. Blocked never does and says that no wait helps, but may be looked at."""
    world = World(node("a", "", UNLIMITED), node("b", "", BLOCKED), node("c", "", quota(5)))
    verdict = await world.decide(asked(A, hits=1_000_000))
    assert verdict.allowed
    assert verdict.statuses[0].unlimited
    verdict = await world.decide(asked(B), asked(C))
    assert not verdict.allowed
    assert verdict.retry_after_us is None
    assert [status.reason for status in verdict.statuses] == [Reason.COST_EXCEEDS_CAPACITY, Reason.WITHIN_LIMIT]
    assert not verdict.statuses[0].unlimited
    assert await world.left(C) == 5
    assert (await world.decide(asked(B, hits=0), asked(C, hits=-1))).allowed


async def test_several_limits_on_denial_the_longest_reset() -> None:
    """Of several limits that deny, the one that takes longest to be untouched again is reported."""
    rules = node("a", "", bucket(1, name="burst"), quota(1, name="daily"), quota(9, Window.YEAR, name="yearly"))
    world = World(rules)
    await world.decide(asked(A))
    status = (await world.decide(asked(A))).statuses[0]
    assert status.limit.name == "daily"
    assert status.remaining == 0
    assert status.reset_us > 1_000_000
    assert len(status.counted) == 3


async def test_several_limits_on_allow_the_smallest_share() -> None:
    """Of several limits that fit, the one with the smallest share left is reported, those in shadow last."""
    world = World(
        node("a", "", quota(100, name="hundred"), quota(4, name="four"), quota(2, name="two", mode=SHADOW)),
        node("b", "", quota(2, name="two", mode=SHADOW)),
    )
    status = (await world.decide(asked(A))).statuses[0]
    assert (status.limit.name, status.remaining) == ("four", 3)
    status = (await world.decide(asked(B))).statuses[0]
    assert (status.limit.name, status.remaining) == ("two", 1)


async def test_the_smallest_share_is_not_the_fewest_tokens() -> None:
    """49 of 100 left are a smaller share than 9 of 10, although they are more tokens."""
    world = World(node("a", "", bucket(10, 10, name="burst"), quota(100, name="daily")))
    for _ in range(10):
        await world.decide(asked(A, hits=5))
        world.clock.time_us += 1_000_000
    status = (await world.decide(asked(A))).statuses[0]
    assert [one.results.remaining for one in status.counted] == [9_000_000, 49_000_000]
    assert (status.limit.name, status.remaining) == ("daily", 49)


async def test_shadow_never_denies() -> None:
    """A limit in shadow, be it blocked, lets everything pass, and does not keep the others from being charged."""
    blocked = RuleLimit(Blocked(), mode=SHADOW)
    world = World(node("a", "", quota(1, mode=SHADOW)), node("b", "", quota(9)), node("c", "", blocked))
    for left in (8, 7, 6):
        verdict = await world.decide(asked(A), asked(B), asked(C))
        assert verdict.allowed
        assert verdict.statuses[1].remaining == left
    assert verdict.statuses[0].counted[0].results.wait_us > 0


async def test_replaces() -> None:
    """A limit that applies keeps those it replaces from applying, wherever they stand in the request."""
    world = World(
        node("a", "", quota(5, name="usual")),
        node("b", "", quota(10, name="special", replaces=("usual",))),
        node("c", "", UNLIMITED),
    )
    for order in ((asked(A), asked(B)), (asked(B), asked(A))):
        verdict = await world.decide(*order)
        assert {status.limit.name for status in verdict.statuses if status.limit} == {"special"}
    assert await world.left(A) == 5
    assert await world.left(B) == 8


async def test_replaced_by_unlimited() -> None:
    """An unlimited or blocked limit replaces others and is replaced like any other."""
    free = UNLIMITED.__class__(UNLIMITED.algorithm, name="free", replaces=("usual", "never"))
    never = BLOCKED.__class__(BLOCKED.algorithm, name="never")
    world = World(node("a", "", quota(1, name="usual")), node("b", "", free), node("c", "", never))
    for _ in range(3):
        assert (await world.decide(asked(A), asked(B), asked(C))).allowed
    assert not (await world.decide(asked(A), asked(C))).allowed
    assert await world.left(A) == 1


async def test_looking_and_giving_back() -> None:
    """0 hits only look. Negative ones give back, at most to an untouched bucket, and are never denied."""
    world = World(node("a", "", quota(5)), node("b", "", quota(1)))
    await world.decide(asked(A, hits=4))
    assert (await world.decide(asked(A, hits=0))).statuses[0].remaining == 1
    assert (await world.decide(asked(A, hits=-2))).statuses[0].remaining == 3
    verdict = await world.decide(asked(A, hits=-1_000))
    assert verdict.allowed
    assert verdict.statuses[0].remaining == 5
    await world.decide(asked(A, hits=5))
    await world.decide(asked(B))
    assert not (await world.decide(asked(A, hits=-3), asked(B))).allowed
    assert await world.left(A) == 0


async def test_one_bucket_twice() -> None:
    """Two descriptors with one bucket are weighed together: neither slips past the other."""
    world = World(node("a", "", quota(5)))
    assert not (await world.decide(asked(A, hits=3), asked(A, hits=3))).allowed
    assert await world.left(A) == 5
    assert (await world.decide(asked(A, hits=3), asked(A, hits=2))).allowed
    assert await world.left(A) == 0
    with pytest.raises(InvalidArgument, match="2000000"):
        await world.decide(asked(A, hits=1_000_000), asked(A, hits=1_000_000))


async def test_override_of_the_request() -> None:
    """A request's own limit applies in the place of the rules', in any domain, and is always enforced."""
    world = World(node("a", "", quota(5, mode=SHADOW)), node("b", "", UNLIMITED))
    for domain, entry in (("shop", A), ("shop", B), ("shop", ("x", "1")), ("nowhere", A)):
        two = asked(entry, override=Quota(2, Window.DAY))
        answers = [(await world.decide(two, domain=domain)).allowed for _ in range(3)]
        assert answers == [True, True, False]
        assert not (await world.decide(asked(entry, override=Blocked()), domain=domain)).allowed


async def test_more_than_the_limit_never_fits() -> None:
    """Hits above the limit are denied, with the reason that no wait helps."""
    world = World(node("a", "", quota(5)))
    verdict = await world.decide(asked(A, hits=6))
    assert verdict.statuses[0].reason is Reason.COST_EXCEEDS_CAPACITY
    assert verdict.statuses[0].wait_us == NEVER
    assert verdict.retry_after_us is None


async def test_waits_of_those_not_charged() -> None:
    """When a request is denied before the buckets are asked, the others still say whether they would have fit."""
    world = World(node("a", "", BLOCKED), node("b", "", quota(1)), node("c", "", bucket(2, refill=1)))
    await world.decide(asked(B), asked(C))
    statuses = (await world.decide(asked(A), asked(B), asked(C, hits=2))).statuses
    assert [status.allowed for status in statuses] == [False, False, False]
    assert statuses[2].wait_us == 1_000_000
    assert await world.left(C) == 1


async def test_a_key_is_decided_by_its_plan() -> None:
    """A descriptor with an API key is decided by that key's plan, by resource, and by no rule."""
    world = World(node("api_key", "", quota(1)), node("a", "", quota(9)))
    key = world.add_key(burst(2, name="orders", resource="orders.*"), burst(50, name="all"))
    by_key = asked(("api_key", str(key)), ("resource", "orders.create"))
    answers = [await world.decide(by_key, asked(A)) for _ in range(3)]
    assert [answer.allowed for answer in answers] == [True, True, False]
    assert answers[2].statuses[0].limit.name == "orders"
    assert answers[2].statuses[0].policy.key_id == key.key_id
    assert await world.left(A) == 7
    assert (await world.decide(asked(("api_key", str(key))))).statuses[0].remaining == 47


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"state": KeyState.REVOKED}, Reason.KEY_REVOKED),
        ({"state": KeyState.SUSPENDED}, Reason.KEY_SUSPENDED),
        ({"expires_us": 1}, Reason.KEY_EXPIRED),
    ],
)
async def test_a_key_that_is_not_good(fields: dict[str, object], reason: Reason) -> None:
    """A key that is not good denies the request, with its reason, and nothing is charged."""
    world = World(node("a", "", quota(9)))
    verdict = await world.decide(asked(("api_key", str(world.add_key(**fields)))), asked(A))
    assert [status.reason for status in verdict.statuses] == [reason, Reason.WITHIN_LIMIT]
    assert not verdict.allowed
    assert verdict.retry_after_us is None
    assert await world.left(A) == 9


@pytest.mark.parametrize("text", ["", "nonsense", "rlk_live_x_y", str(ApiKey.generate("live"))])
async def test_an_unknown_or_malformed_key_is_denied(text: str) -> None:
    """A key that we do not know denies, be it malformed: an error would let it pass a proxy that fails open."""
    verdict = await World().decide(asked(("api_key", text)))
    assert verdict.statuses[0].reason is Reason.KEY_UNKNOWN
    assert not verdict.allowed


async def test_a_resource_of_any_length_is_limited() -> None:
    """A client that makes its path long or strange does not escape the limit of its prefix."""
    world = World()
    key = world.add_key(burst(1, name="orders", resource="/orders/*"))
    verdicts = [
        await world.decide(asked(("api_key", str(key)), ("resource", f"/orders/{path}")))
        for path in ("x" * 5_000, "\u00e9" * 5_000, "a\x00b", "")
    ]
    assert [verdict.allowed for verdict in verdicts] == [True, False, False, False]


@pytest.mark.parametrize(
    ("descriptors", "field"),
    [
        ((), "descriptors"),
        ((asked(A),) * 33, "descriptors"),
        ((asked(),), "descriptors[0].entries"),
        ((asked(A), asked(*(A,) * 17)), "descriptors[1].entries"),
        ((asked(A, ("", "1")),), "descriptors[0].entries[1].key"),
        ((asked(("k" * 257, "1")),), "descriptors[0].entries[0].key"),
        ((asked(("\u00e9" * 129, "1")),), "descriptors[0].entries[0].key"),
        ((asked(A, hits=1_000_001),), "descriptors[0].hits_addend"),
        ((asked(A, hits=-1_000_001),), "descriptors[0].hits_addend"),
        ((asked(("api_key", "x"), A),), "descriptors[0].entries[1].key"),
        ((asked(("api_key", "x"), ("api_key", "y")),), "descriptors[0].entries[1].key"),
        ((asked(("api_key", "x"), override=Quota(1, Window.DAY)),), "descriptors[0].limit"),
    ],
)
async def test_bad_input_names_the_field(descriptors: tuple[Descriptor, ...], field: str) -> None:
    """A request out of bounds is refused with the field at fault, and nothing is charged."""
    world = World(node("a", "", quota(9)))
    with pytest.raises(InvalidArgument) as caught:
        await world.decide(*descriptors)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert world.buckets.round_trips == 0


@pytest.mark.parametrize("domain", ["", "d" * 257])
async def test_bad_domain(domain: str) -> None:
    """A domain that is empty or too long is refused."""
    with pytest.raises(InvalidArgument) as caught:
        await World().decide(asked(A), domain=domain)
    assert caught.value.violations[0].field == "domain"


async def test_bounds_are_within() -> None:
    """32 descriptors of 16 entries, keys of 256 bytes and values of any length are good."""
    entry = ("k" * 256, "v" * 60_000)
    world = World(node("k" * 256, "", quota(1)))
    assert (await world.decide(*[asked(*(entry,) * 16)] * 32, domain="d" * 256)).allowed
    assert (await world.decide(asked(entry))).allowed
    assert not (await world.decide(asked(entry))).allowed


def failing(*nodes: RuleNode, **fields: object) -> World:
    """A world whose shared buckets cannot be asked."""
    world = World(*nodes, **fields)
    world.buckets.down = True
    return world


async def test_store_failure_fails_by_default() -> None:
    """Without a word in the rules a store that cannot be asked is an error, so that the proxy's own mode decides."""
    world = failing(node("a", "", quota(9)), node("b", "", quota(9), on_store_failure=ALLOW))
    with pytest.raises(Unavailable) as caught:
        await world.decide(asked(A), asked(B))
    assert caught.value.reason == "BUCKET_STORE_UNAVAILABLE"
    assert (await world.decide(asked(B))).statuses[0].reason is Reason.DEGRADED_ALLOWED
    assert (await world.decide(asked(("x", "1")))).allowed


async def test_store_failure_by_rule() -> None:
    """ALLOW lets pass, DENY denies, LOCAL weighs by this server's own buckets, and those only if nothing denies."""
    world = failing(
        node("a", "", quota(2), on_store_failure=LOCAL),
        node("b", "", quota(9), on_store_failure=DENY),
        node("c", "", quota(9), on_store_failure=ALLOW),
    )
    verdict = await world.decide(asked(A), asked(B), asked(C))
    reasons = [status.reason for status in verdict.statuses]
    assert reasons == [Reason.WITHIN_LIMIT, Reason.DEGRADED_DENIED, Reason.DEGRADED_ALLOWED]
    assert {status.source for status in verdict.statuses} == {Source.DEGRADED}
    answers = [(await world.decide(asked(A), asked(C))).allowed for _ in range(3)]
    assert answers == [True, True, False]


async def test_store_failure_of_a_plan() -> None:
    """A key's descriptor goes by its plan's on_store_failure."""
    world = failing()
    for on_store_failure, reason in (
        (OnStoreFailure.ALLOW, Reason.DEGRADED_ALLOWED),
        (OnStoreFailure.DENY, Reason.DEGRADED_DENIED),
        (OnStoreFailure.LOCAL, Reason.WITHIN_LIMIT),
    ):
        key = world.add_key(on_store_failure=on_store_failure)
        verdict = await world.decide(asked(("api_key", str(key))))
        assert verdict.statuses[0].reason is reason
        assert verdict.statuses[0].policy is not None


async def test_store_failure_denies_nothing_that_is_not_enforced() -> None:
    """DENY does not deny what could not be denied: a look, a give-back, a limit in shadow."""
    world = failing(
        node("a", "", quota(2), on_store_failure=DENY), node("b", "", quota(2, mode=SHADOW), on_store_failure=DENY)
    )
    assert (await world.decide(asked(A, hits=0), asked(A, hits=-1), asked(B))).allowed


async def test_rules_that_were_never_read() -> None:
    """While the rules are not known a request fails; one that is about a key alone needs none."""
    world = World(node("a", "", quota(2)))
    key = world.add_key()
    with pytest.raises(Unavailable) as caught:
        await world.engine.decide(await world.engine.prepare(DescribedRequest("shop", [asked(A)])))
    assert caught.value.reason == "POLICY_STORE_UNAVAILABLE"
    assert (
        await world.engine.decide(await world.engine.prepare(DescribedRequest("shop", [asked(("api_key", str(key)))])))
    ).allowed


async def test_statuses_are_counted() -> None:
    """Every status is counted, by reason and source."""
    world = World(node("a", "", quota(1)))
    for _ in range(3):
        await world.decide(asked(A), asked(("x", "1")))
    assert world.engine.tally[Reason.OVER_LIMIT][Source.STORE] == 2
    assert world.engine.tally[Reason.WITHIN_LIMIT][Source.STORE] == 1
    assert world.engine.tally[Reason.WITHIN_LIMIT][Source.POLICY] == 3
