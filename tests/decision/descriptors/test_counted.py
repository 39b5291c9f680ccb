"""What descriptors count for, in the store or in this worker where no script decides."""

import pytest

from decision.descriptors.world import World
from decision.memory import burst
from ratelimit_service.decision.descriptors.request import DescribedRequest, Descriptor
from ratelimit_service.decision.descriptors.rules import Blocked, RuleLimit, RuleNode, RuleOnStoreFailure, Unlimited
from ratelimit_service.decision.limit import Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.record import KeyState
from ratelimit_service.decision.usage import RuleSeries, parse_field

TEN = TokenBucket(10, 10, 1_000_000)


async def counted(world: World, *descriptors: Descriptor) -> list[tuple[object, ...]]:
    """What the store is to count of a request: series, limits, cost, calls, positions."""
    await world.rules.refresh_all()
    prepared = await world.engine.prepare(DescribedRequest("shop", descriptors))
    return [
        (*parse_field(each.series.field)[1:], each.cost, each.calls, each.positions) for each in prepared.charge.counted
    ]


async def rows(world: World, *descriptors: Descriptor) -> dict[tuple[object, ...], list[int]]:
    """What the worker counted of a request, by series and limits."""
    await world.rules.refresh_all()
    await world.engine.decide(await world.engine.prepare(DescribedRequest("shop", descriptors)))
    return {parse_field(row.field)[1:]: list(row.counts) for row in world.usage.take(100)}


def path(value: str, hits: int = 1) -> Descriptor:
    """A descriptor of a path."""
    return Descriptor((("path", value),), hits)


async def test_rules_count_by_their_configured_path() -> None:
    """A caller's value appears in no series: a wildcard is itself, a key without a value its key alone."""
    leaf = RuleNode("user", limits=(RuleLimit(TEN, "u"),))
    world = World(RuleNode("path", "/a*", (RuleLimit(TEN, "p"),), (leaf,)), leaf)
    nested = Descriptor((("path", "/abc"), ("user", "eve")), 2)
    assert await counted(world, nested) == [(RuleSeries("shop", "path=/a*/user"), ("u",), 2, 1, None)]
    assert await counted(world, path("/axx")) == [(RuleSeries("shop", "path=/a*"), ("p",), 1, 1, None)]


async def test_series_of_several_descriptors_count_once() -> None:
    """Descriptors of one rule are one call with all their hits, each with its own bucket; refunds are no call."""
    world = World(RuleNode("path", limits=(RuleLimit(TEN, "p"),)), RuleNode("user", limits=(RuleLimit(TEN, "u"),)))
    user = Descriptor((("user", "eve"),), -2)
    assert await counted(world, path("/a"), user, path("/b", 3), path("/c", 0)) == [
        (RuleSeries("shop", "path"), ("p",), 4, 1, (0, 2)),
        (RuleSeries("shop", "user"), ("u",), -2, 0, (1,)),
    ]


async def test_peeks_and_descriptors_without_a_rule_count_for_nothing() -> None:
    """Nothing is counted where nothing is taken, nor where no rule is matched."""
    world = World(RuleNode("path", limits=(RuleLimit(TEN, "p"),)))
    assert await counted(world, path("/a", 0)) == []
    assert await rows(world, Descriptor((("unknown", "x"),))) == {}


async def test_a_limit_of_the_request_counts_for_the_rule_that_it_replaces() -> None:
    """Where no rule matches, an override counts for the keys of the descriptor, without their values."""
    world = World(RuleNode("path", "/a*", (RuleLimit(TEN, "p"),)))
    quota = Quota(5, Window.DAY)
    assert await counted(world, Descriptor((("path", "/abc"),), 1, quota)) == [
        (RuleSeries("shop", "path=/a*"), ("",), 1, 1, None)
    ]
    assert await counted(world, Descriptor((("who", "eve"), ("what", "x")), 1, quota)) == [
        (RuleSeries("shop", "who/what"), ("",), 1, 1, None)
    ]


async def test_descriptors_without_buckets_are_counted_by_the_worker() -> None:
    """Unlimited ones are allowed, blocked ones denied by the limit BLOCKED, and shadow ones would be."""
    world = World(
        RuleNode("path", "/free", (RuleLimit(Unlimited(), "f"),)),
        RuleNode("path", "/no", (RuleLimit(Blocked(), "n"),)),
        RuleNode("path", "/maybe", (RuleLimit(Blocked(), "m", Mode.SHADOW),)),
    )
    assert await rows(world, path("/free", 3)) == {(RuleSeries("shop", "path=/free"), ()): [1, 3, 0, 0, 0]}
    assert await rows(world, path("/no")) == {(RuleSeries("shop", "path=/no"), ("BLOCKED",)): [0, 0, 1, 0, 0, 1, 0]}
    assert await rows(world, path("/maybe")) == {
        (RuleSeries("shop", "path=/maybe"), ("BLOCKED",)): [1, 1, 0, 1, 0, 0, 1]
    }


async def test_a_request_that_is_denied_without_its_buckets_is_counted_by_the_worker() -> None:
    """The descriptors beside a blocked one only peek: they are denied with it, by no limit of their own."""
    world = World(RuleNode("path", limits=(RuleLimit(TEN, "p"),)), RuleNode("user", limits=(RuleLimit(Blocked()),)))
    assert await rows(world, path("/a"), Descriptor((("user", "eve"),))) == {
        (RuleSeries("shop", "path"), ("p",)): [0, 0, 1, 0, 0, 0, 0],
        (RuleSeries("shop", "user"), ("BLOCKED",)): [0, 0, 1, 0, 0, 1, 0],
    }


async def test_keys_in_descriptors_count_as_keys() -> None:
    """A descriptor with an API key counts for the key's series, in the store or for its refusal."""
    world = World()
    api_key, revoked = world.add_key(burst()), world.add_key(burst(), state=KeyState.REVOKED)
    entries = (("api_key", str(api_key)), ("resource", "orders"))
    ((series, limits, *rest),) = await counted(world, Descriptor(entries))
    assert (*series, *limits, *rest) == (api_key.key_id, "orders", "acme", "free", "burst", 1, 1, None)
    (((series, limits), counts),) = (await rows(world, Descriptor((("api_key", str(revoked)),)))).items()
    assert (series[0], limits, counts) == (revoked.key_id, ("KEY_REVOKED",), [0, 0, 1, 0, 0, 1, 0])


@pytest.mark.parametrize(
    ("mode", "limit", "counts"),
    [
        (RuleOnStoreFailure.ALLOW, "p", [1, 1, 0, 0, 1]),
        (RuleOnStoreFailure.DENY, "DEGRADED_DENIED", [0, 0, 1, 0, 1, 1, 0]),
        (RuleOnStoreFailure.LOCAL, "p", [1, 1, 0, 0, 1, 0, 0]),
    ],
)
async def test_degraded_descriptors_are_counted_by_the_worker(
    mode: RuleOnStoreFailure, limit: str, counts: list[int]
) -> None:
    """What was decided without the store counts as it was answered, as degraded."""
    world = World(RuleNode("path", limits=(RuleLimit(TEN, "p"),)), on_store_failure=mode)
    world.buckets.down = True
    assert await rows(world, path("/a")) == {(RuleSeries("shop", "path"), (limit,)): counts}
