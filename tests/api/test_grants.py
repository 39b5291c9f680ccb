"""Units that are granted ahead, as gateways see them on each transport."""

import asyncio
import queue
import time
from itertools import count

import grpc
import pytest

from api.grant_stream import GrantStream
from fixtures.served import Serve, Server, free_address
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.enforcement_pb2 import ManageEnforcementRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    CheckLimitRequest,
    CheckLimitResponse,
    GrantRequest,
    GrantResponse,
)
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.bootstrap import open_services
from ratelimit_service.management.tokens import Role
from server.test_metrics import total

LIMITS = [
    {"name": "tokens", "quota": {"amount": 100, "window": "YEAR"}},
    {"name": "calls", "quota": {"amount": 1_000, "window": "YEAR"}, "counts": "CALLS", "resource": "orders.*"},
    {"name": "search", "quota": {"amount": 9, "window": "YEAR"}, "resource": "search*"},
]
BURST = {"name": "burst", "token_bucket": {"capacity": 100, "refill_tokens": 1, "refill_period": {"seconds": 1}}}
_ids = count(1)


@pytest.fixture(scope="module", params=["envoy", "grpcio"])
def server(request: pytest.FixtureRequest, serve: Serve) -> Server:
    """A server that waits for its store longer than a busy machine stands still."""
    return serve(request.param, operations_listen=free_address(), workers=1, store_timeout=5.0, store_slow=5.0)


def new_key(server: Server, limits: list[dict[str, object]]) -> tuple[str, str]:
    """The id and secret of a new key with a plan of these limits."""
    plan = f"granted-{next(_ids)}"
    request = admin_pb2.ManagePlanRequest(create={"plan": {"name": plan, "limits": limits}})
    server.manage().ManagePlan(request, metadata=server.as_admin)
    return server.key(plan)


def ask(server: Server, role: Role | None = Role.GATEWAY, **fields: object) -> GrantResponse:
    """What a caller of this role is granted."""
    metadata = () if role is None else (("authorization", f"Bearer {server.tokens[role]}"),)
    request = GrantRequest(**fields)
    return RateLimitServiceStub(server.channel).Grant(request, metadata=metadata, timeout=20)


def left(response: GrantResponse) -> dict[str, int]:
    """What each limit has left."""
    return {limit.name: limit.remaining for limit in response.decision.limits}


def new_id() -> str:
    """An id that no other grant has."""
    return f"{next(_ids):032x}"


def test_units_are_granted_spent_and_returned(server: Server) -> None:
    """Once each, whatever is repeated; a call by itself sees what is granted; operators see what became of it."""
    key_id, secret = new_key(server, LIMITS)
    own = {"api_key": secret, "resource": "orders.create", "cost": 2, "wants": 20, "grant_id": new_id()}
    first, again = ask(server, **own), ask(server, **own)
    assert (first.grant_id, first.granted, left(first)) == (own["grant_id"], 12, {"tokens": 76, "calls": 988})
    assert (again.granted, left(again)) == (12, {"tokens": 76, "calls": 988})
    assert first.ttl.ToMilliseconds() == 1_000
    assert 0 < again.ttl.ToMilliseconds() <= 1_000
    assert (first.resource_prefix, first.returns_made, first.per_call) == ("orders.", True, 0)
    decision = first.decision
    assert (decision.allowed, decision.source, decision.key_id) == (True, CheckLimitResponse.STORE, key_id)
    check = RateLimitServiceStub(server.channel).CheckLimit(CheckLimitRequest(api_key=secret, resource="orders.x"))
    assert {limit.name: limit.remaining for limit in check.limits} == {"tokens": 75, "calls": 987}
    spent = [
        {"resource": "orders.create", "allowed": 6, "cost": 12},
        {"resource": "orders.list", "allowed": 1, "cost": 2, "denied": 3, "limit": "tokens"},
    ]
    back = [{"grant_id": first.grant_id, "unused": 5, "spent": spent}]
    second = ask(server, key_id=key_id, resource="other", wants=1, grant_id=new_id(), returns=back)
    assert (second.granted, second.returns_made, left(second)) == (1, True, {"tokens": 84})
    assert second.resource_prefix == "ot"
    third = ask(server, key_id=key_id, resource="other", wants=1, grant_id=new_id(), returns=back)
    assert left(third) == {"tokens": 83}
    assert ask(server, **own) == GrantResponse(grant_id=first.grant_id, returns_made=True)
    lost = new_id()
    assert ask(server, api_key=secret, returns=[{"grant_id": lost, "unused": 20}]).returns_made
    late = ask(server, **(own | {"grant_id": lost}))
    assert (late.granted, late.HasField("decision")) == (0, False)
    small = ask(server, api_key=secret, resource="search.x", wants=9, cost=10, grant_id=new_id())
    assert (small.granted, small.decision.reason) == (0, CheckLimitResponse.COST_EXCEEDS_CAPACITY)
    assert (small.decision.limit, small.ask_again_after.seconds, small.HasField("ttl")) == ("search", 10, False)

    def counted() -> dict[str, float]:
        events = {"event": ("asked", "made", "repeated", "returned", "gone"), "units": ("granted", "returned", "spent")}
        names = {"event": "ratelimit_grants_total", "units": "ratelimit_grant_units_total"}
        return {
            f"{label} {value}": total(server, rf'{names[label]}\{{{label}="{value}"\}}')
            for label, values in events.items()
            for value in values
        }

    expected = {"event asked": 7, "event made": 3, "event repeated": 2, "event returned": 1, "event gone": 1}
    expected |= {"units granted": 14, "units returned": 5, "units spent": 7}
    deadline = time.monotonic() + 5
    while counted() != expected:
        assert time.monotonic() < deadline, counted()
        time.sleep(0.1)
    assert total(server, "ratelimit_open_reservations") == 0
    while total(server, "ratelimit_open_grants"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_calls_that_are_checked_one_by_one(server: Server) -> None:
    """Where a limit has to know of each: the response says so, and for how long."""
    _, secret = new_key(server, [{**LIMITS[0], "overdraft": {"tokens": 5}}])
    response = ask(server, api_key=secret, wants=1, grant_id=new_id())
    assert (response.granted, response.per_call) == (0, GrantResponse.OVERDRAFT)
    assert (response.ask_again_after.seconds, response.HasField("decision")) == (10, False)


def test_only_gateways_are_granted_units(server: Server) -> None:
    """Whoever else asks is refused, and whatever is malformed."""
    _, secret = new_key(server, LIMITS)
    own = {"api_key": secret, "resource": "orders.create", "wants": 1}
    for role in (None, Role.ADMIN):
        with pytest.raises(grpc.RpcError) as caught:
            ask(server, role, **own, grant_id=new_id())
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    for odd in ({"grant_id": "x"}, {"grant_id": new_id(), "returns": [{"grant_id": new_id()}] * 65}):
        with pytest.raises(grpc.RpcError) as caught:
            ask(server, **own, **odd)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    large = [{"grant_id": new_id(), "spent": [{"resource": "a" * 200, "denied": 1}] * 250}]
    assert ask(server, **own, grant_id=new_id(), returns=large).granted == 1


def wanted(api_key: str, **fields: object) -> GrantRequest:
    """A request for units of a key."""
    return GrantRequest(**{"grant_id": new_id(), "api_key": api_key, "resource": "orders.create", "wants": 4} | fields)


def test_a_stream_grants_what_single_calls_are_granted(server: Server) -> None:
    """To many keys by one message, in order; what is wrong with one request is its own result."""
    (first_id, first), (_, second) = new_key(server, LIMITS), new_key(server, LIMITS[:1])
    with GrantStream(server) as stream:
        own = wanted(first)
        answer = stream.ask(own, wanted("rlk_live_none"), wanted(second, grant_id="x"), wanted(second))
        granted, unknown, odd, other = answer.results
        assert not answer.withdrawals
        assert (granted.response.grant_id, granted.response.granted, left(granted.response)) == (
            own.grant_id,
            4,
            {"tokens": 96, "calls": 996},
        )
        assert (granted.response.decision.key_id, granted.response.resource_prefix) == (first_id, "orders.")
        assert (unknown.response.granted, unknown.response.decision.reason) == (0, CheckLimitResponse.KEY_UNKNOWN)
        assert (odd.error.code, odd.error.field) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "grant_id")
        assert (other.response.granted, left(other.response)) == (4, {"tokens": 96})
        back = {"grant_id": own.grant_id, "unused": 3, "spent": [{"resource": "orders.a", "allowed": 1, "cost": 1}]}
        (returned,) = stream.ask(wanted(first, returns=[back])).results
        assert left(returned.response) == {"tokens": 95, "calls": 995}
        (alone,) = stream.ask(wanted(first, grant_id="", wants=0, returns=[{"grant_id": new_id()}])).results
        assert alone.response == GrantResponse(returns_made=True)


def test_grants_are_withdrawn(server: Server) -> None:
    """When their key is suspended, its plan or an override changes, it is revoked, and when limits are turned off."""
    key_id, secret = new_key(server, LIMITS)
    plan = f"granted-{next(_ids) - 1}"
    manage, as_admin = server.manage(), server.as_admin
    override = {"limit": {"name": "tokens", "quota": {"amount": 200, "window": "YEAR"}}}
    changes = [
        lambda: manage.ManageOverride(
            admin_pb2.ManageOverrideRequest(key_id=key_id, set={"override": override}), metadata=as_admin
        ),
        lambda: manage.ManagePlan(
            admin_pb2.ManagePlanRequest(
                update={"plan": {"name": plan, "limits": [*LIMITS, BURST]}, "update_mask": {"paths": ["limits"]}}
            ),
            metadata=as_admin,
        ),
        lambda: manage.ManageEnforcement(
            ManageEnforcementRequest(turn_off={"duration": {"seconds": 60}}), metadata=as_admin
        ),
        lambda: manage.ManageEnforcement(ManageEnforcementRequest(turn_on={}), metadata=as_admin),
        lambda: manage.ManageKey(admin_pb2.ManageKeyRequest(suspend={"key_id": key_id}), metadata=as_admin),
        lambda: manage.ManageKey(admin_pb2.ManageKeyRequest(resume={"key_id": key_id}), metadata=as_admin),
        lambda: manage.ManageKey(admin_pb2.ManageKeyRequest(revoke={"key_id": key_id}), metadata=as_admin),
    ]
    granted = []
    with GrantStream(server) as stream, GrantStream(server) as other:
        (result,) = other.ask(wanted(new_key(server, LIMITS)[1])).results
        assert result.response.granted
        for change in changes:
            (result,) = stream.ask(wanted(secret)).results
            granted.append(result.response.granted)
            change()
            if result.response.granted:
                assert list(stream.withdrawn()) == [key_id]
            else:
                wait_until_granted(stream, secret)
        (result,) = stream.ask(wanted(secret)).results
        assert result.response.decision.reason == CheckLimitResponse.KEY_REVOKED
        assert len(list(other.withdrawn())) == 1  # when limits were turned off
        with pytest.raises(queue.Empty):
            other.read(0.1)
    assert granted == [4, 4, 4, 0, 4, 0, 4]


def wait_until_granted(stream: GrantStream, secret: str) -> None:
    """Return once the key is granted units again, which are returned."""
    until = time.monotonic() + 10
    while True:
        own = wanted(secret)
        (result,) = stream.ask(own).results
        if result.response.granted:
            stream.ask(wanted(secret, grant_id="", wants=0, returns=[{"grant_id": own.grant_id, "unused": 4}]))
            return
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_stream_is_bounded(server: Server) -> None:
    """To gateways, to 64 requests in a message, and to the keys that it can watch; its token ends it."""
    _, secret = new_key(server, LIMITS)
    with GrantStream(server, server.tokens[Role.ADMIN]) as stream:
        stream.send(wanted(secret))
        assert stream.end() is grpc.StatusCode.PERMISSION_DENIED
    for requests in ([], [wanted(secret)] * 65):
        with GrantStream(server) as stream:
            stream.send(*requests)
            assert stream.end() is grpc.StatusCode.INVALID_ARGUMENT

    async def leaving(action: str) -> str:
        async with open_services(server.settings) as services:
            if action == "create":
                return await services.tokens.create("leaving", Role.GATEWAY)
            await services.tokens.revoke("leaving")
            return ""

    with GrantStream(server, asyncio.run(leaving("create"))) as stream:
        assert stream.ask(wanted(secret)).results[0].response.granted
        asyncio.run(leaving("revoke"))
        assert stream.end() is grpc.StatusCode.UNAUTHENTICATED


def test_a_server_that_drains_ends_its_streams(server: Server) -> None:
    """At once, so that their callers open them elsewhere: a stream lasts as long as its caller does."""
    _, secret = new_key(server, LIMITS)
    with GrantStream(server) as stream:
        assert stream.ask(wanted(secret)).results[0].response.granted
        began = time.monotonic()
        assert server.stop() == 0
        assert stream.end() is grpc.StatusCode.UNAVAILABLE
        assert time.monotonic() - began < server.settings.drain_timeout
