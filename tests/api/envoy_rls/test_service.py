"""Requests in the same bytes are found in the request cache until something changes."""

from collections.abc import Sequence

import pytest

from decision.descriptors.world import World, bucket, node, quota
from decision.memory import burst
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service.api.envoy_rls.service import EnvoyRateLimitService
from ratelimit_service.api.headers import LimitHeaders
from ratelimit_service.api.lasting import Lasting
from ratelimit_service.api.reasons import ReasonCounts
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.descriptors.engine import PreparedRequest
from ratelimit_service.decision.descriptors.rules import DomainRules, RuleCharge, RuleLimit, RuleNode
from ratelimit_service.decision.limit import Quota, Window
from ratelimit_service.decision.ports import Change, ChangeKind
from ratelimit_service.management.tokens import ANONYMOUS, Caller, Role

A = ("a", "1")
OK, OVER_LIMIT = RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT


class Service:
    """The service over an engine on stores in memory."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.service = EnvoyRateLimitService(world.engine, world.held, LimitHeaders(""), world.clock, ReasonCounts("x"))

    def is_cached(self, data: bytes) -> bool:
        return isinstance(self.service.read(data), PreparedRequest)

    async def ask(self, data: bytes) -> RateLimitResponse:
        if not len(self.world.rules):
            await self.world.rules.refresh_all()
        response = await self.service.should_rate_limit(self.service.read(data), ANONYMOUS)
        return RateLimitResponse.FromString(response.SerializeToString())


def request(*descriptors: Sequence[tuple[str, str]], domain: str = "shop") -> bytes:
    """A RateLimitRequest with these descriptors."""
    entries = [{"entries": [{"key": key, "value": value} for key, value in one]} for one in descriptors]
    return RateLimitRequest(domain=domain, descriptors=entries).SerializeToString()


async def test_the_same_request_is_cached_until_something_changes() -> None:
    """Rules and policies that are replaced are in force for the next request in the same bytes."""
    world = World(node(*A, quota(5)))
    service = Service(world)
    data = request([A], [("api_key", str(world.add_key(burst(9))))])
    assert [status.limit_remaining for status in (await service.ask(data)).statuses] == [4, 8]
    assert not service.is_cached(data)
    assert [status.limit_remaining for status in (await service.ask(data)).statuses] == [3, 7]
    assert service.is_cached(data)
    assert [status.limit_remaining for status in (await service.ask(data)).statuses] == [2, 6]
    world.source.rules["shop"] = DomainRules("shop", (node(*A, quota(2)),))
    await world.rules.apply([Change(ChangeKind.DOMAIN, "shop")])
    assert not service.is_cached(data)
    assert (await service.ask(data)).overall_code == OVER_LIMIT


async def test_what_may_come_into_being_is_not_cached() -> None:
    """A domain without rules may get some, and an unknown key may be created."""
    service = Service(World(node(*A, quota(5))))
    unknown = str(ApiKey.generate("live"))
    for data in (request([A], domain="nowhere"), request([A], [("api_key", unknown)]), request([("api_key", "junk")])):
        for _ in range(3):
            await service.ask(data)
            assert not service.is_cached(data)


async def test_keys_in_a_domain_without_rules_are_cached_until_it_gets_some() -> None:
    """A plan decides them; the rules that come into being say whether they are charged afterwards."""
    world = World(node(*A, quota(5)))
    service = Service(world)
    data = request([("api_key", str(world.add_key(burst(9))))], domain="nowhere")
    for _ in range(2):
        await service.ask(data)
    assert service.is_cached(data)
    world.source.rules["nowhere"] = DomainRules("nowhere", (), charge=RuleCharge.ALWAYS)
    await world.rules.apply([Change(ChangeKind.DOMAIN, "nowhere")])
    assert not service.is_cached(data)


async def test_a_domain_that_loses_its_rules_is_not_cached() -> None:
    """A request to deleted rules is prepared anew, and passes."""
    world = World(node(*A, quota(1)))
    service, data = Service(world), request([A])
    assert [(await service.ask(data)).overall_code for _ in range(3)] == [OK, OVER_LIMIT, OVER_LIMIT]
    assert service.is_cached(data)
    del world.source.rules["shop"]
    await world.rules.apply([Change(ChangeKind.DOMAIN, "shop")])
    assert not service.is_cached(data)
    assert (await service.ask(data)).overall_code == OK


async def test_a_large_request_is_not_cached() -> None:
    """A request of more than a kilobyte is parsed each time, and decided all the same."""
    service = Service(World(node("a", "", quota(5))))
    data = request([("a", "x" * 2_000)])
    assert [(await service.ask(data)).statuses[0].limit_remaining for _ in range(3)] == [4, 3, 2]
    assert not service.is_cached(data)


@pytest.mark.parametrize(("keys", "lasts"), [("a", True), ("b", False), ("ab", False), ("ba", False), ("aa", False)])
async def test_what_is_given_again(keys: str, lasts: bool) -> None:
    """A denial of one descriptor from memory, while it holds: never what charges something each time."""
    owing = RuleLimit(Quota(10, Window.DAY), overdraft=2_000)
    world = World(node("a", "", bucket(1)), RuleNode("b", "", (owing,), charge=RuleCharge.ALWAYS))
    world.buckets.exhausted = True
    service, data = Service(world).service, request(*([(key, "1")] for key in keys))
    await world.rules.refresh_all()
    gateway = Caller("edge", Role.GATEWAY)
    responses = [await service.should_rate_limit(service.read(data), gateway) for _ in range(6)]
    assert [isinstance(response, Lasting) for response in responses] == [False] * 2 + [lasts] * 4
