"""What servers remember of denials: no call is denied wrongly by it, whatever was lost on its way."""

import asyncio
import random
import time
from uuid import uuid4

import grpc
import pytest
import redis

from api.envoy.wire import ask, descriptor
from fixtures.served import Server
from fleet.conftest import Fleet
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageKeyRequest, ManagePlanRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    CheckLimitRequest,
    CheckLimitResponse,
    SettleLimitRequest,
)
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.management.tokens import Role

CAPACITY = 300
CALLERS = 24
MEMORY = CheckLimitResponse.MEMORY


def make_plan(fleet: Fleet, name: str) -> str:
    """A plan whose limit takes too long to refill to matter. Returns the API key of a key on it."""
    server = fleet.servers[0]
    bucket = {"capacity": CAPACITY, "refill_tokens": 1, "refill_period": {"seconds": 86_400}}
    plan = {"name": name, "limits": [{"name": "burst", "token_bucket": bucket}], "on_store_failure": "DENY"}
    server.manage().ManagePlan(ManagePlanRequest(create={"plan": plan}), metadata=server.as_admin)
    return server.key(name)[1]


def until_remembered(fleet: Fleet, server: Server, api_key: str) -> CheckLimitResponse:
    """A denial from memory: the second in a row, unless more than a second has passed between them."""
    ends = time.monotonic() + 10
    while (response := fleet.check(server, api_key=api_key)).source != MEMORY:
        assert time.monotonic() < ends
        assert not response.allowed
    return response


async def test_every_call_that_was_charged_is_allowed(fleet: Fleet) -> None:
    """Exactly as many as fit, although replies are lost, and their callers ask again when all know that none fits.

    Each call says which attempt it is, and goes to any server, until it has a response.
    """
    api_key = make_plan(fleet, "lost-replies")
    channels = [grpc.aio.insecure_channel(server.address) for server in fleet.servers]
    stubs = [RateLimitServiceStub(channel) for channel in channels]
    for stub in stubs:
        await stub.CheckLimit(CheckLimitRequest(api_key=api_key, cost=0), timeout=30)
    lost: set[str] = set()
    allowed: list[str] = []
    remembered = 0

    async def caller(number: int) -> None:
        nonlocal remembered
        chance = random.Random(number)
        for _ in range(3 * CAPACITY // CALLERS):
            request = CheckLimitRequest(api_key=api_key, request_id=uuid4().hex)
            while True:
                request.attempt += 1
                timeout = 0.004 if request.attempt == 1 and chance.random() < 0.5 else 5
                try:
                    response = await chance.choice(stubs).CheckLimit(request, timeout=timeout)
                    if response.source != CheckLimitResponse.DEGRADED:  # the store's reply was lost, or late
                        break
                except grpc.aio.AioRpcError:
                    lost.add(request.request_id)
                await asyncio.sleep(chance.choice([0, 0.05, 0.5]))
            remembered += response.source == MEMORY
            assert request.attempt == 1 or response.source != MEMORY
            if response.allowed:
                allowed.append(request.request_id)

    await asyncio.gather(*map(caller, range(CALLERS)))
    for channel in channels:
        await channel.close()
    assert len(allowed) == CAPACITY
    assert lost & set(allowed)
    assert remembered > CAPACITY


@pytest.mark.parametrize("rights", ["+publish", "-publish"])
def test_what_another_server_refunds(fleet: Fleet, rights: str) -> None:
    """The others allow what fits now, within a second in any case: also when the message is lost."""
    api_key = make_plan(fleet, {"+publish": "refunded", "-publish": "refunded-unheard"}[rights])
    first = fleet.servers[0]
    assert fleet.check(first, api_key=api_key, cost=CAPACITY).allowed
    for server in fleet.servers:
        denied = until_remembered(fleet, server, api_key)
        assert 80_000 < denied.retry_after.seconds <= 86_400
    refund = descriptor(("api_key", api_key), hits_addend={"value": 10}, is_negative_hits=True)
    with redis.Redis.from_url(fleet.valkey.url) as valkey:
        valkey.execute_command("ACL", "SETUSER", "default", rights)
        try:
            ask(first, refund, domain="any", token=first.tokens[Role.GATEWAY])
        finally:
            valkey.execute_command("ACL", "SETUSER", "default", "+publish")
    refunded = time.monotonic()
    assert fleet.check(first, api_key=api_key).allowed  # at once where it was refunded
    for server in fleet.servers[1:]:
        asked = refunded
        while not fleet.check(server, api_key=api_key).allowed:
            assert asked < refunded + 1
            asked = time.monotonic()


def test_what_may_be_returned_is_not_remembered(fleet: Fleet) -> None:
    """Of a limit with an open reservation every denial is the store's, and a settlement counts at once everywhere."""
    api_key = make_plan(fleet, "settled-elsewhere")
    first = fleet.servers[0]
    reserved = fleet.check(first, api_key=api_key, cost=CAPACITY, hold={"seconds": 60})
    assert reserved.allowed
    for denied in fleet.check_all(api_key=api_key) + fleet.check_all(api_key=api_key):
        assert (denied.allowed, denied.source) == (False, CheckLimitResponse.STORE)
    settle = SettleLimitRequest(reservation_id=reserved.reservation_id, actual_cost=CAPACITY - 10)
    RateLimitServiceStub(first.channel).SettleLimit(settle, timeout=5)
    assert all(response.allowed for response in fleet.check_all(api_key=api_key))


def test_a_key_that_is_suspended(fleet: Fleet) -> None:
    """One that is suspended is refused as such, as soon as a server hears of it."""
    api_key = make_plan(fleet, "boosted")
    server = fleet.servers[-1]
    assert fleet.check(server, api_key=api_key, cost=CAPACITY).allowed
    suspend = ManageKeyRequest(suspend={"key_id": until_remembered(fleet, server, api_key).key_id})
    server.manage().ManageKey(suspend, metadata=server.as_admin)
    ends = time.monotonic() + 10
    while fleet.check(server, api_key=api_key).reason != CheckLimitResponse.KEY_SUSPENDED:
        assert time.monotonic() < ends
