"""Units that are granted ahead, as gateways see them on each transport."""

import time
from itertools import count

import grpc
import pytest

from fixtures.served import Serve, Server, free_address
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    CheckLimitRequest,
    CheckLimitResponse,
    GrantRequest,
    GrantResponse,
)
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.management.tokens import Role
from server.test_metrics import total

LIMITS = [
    {"name": "tokens", "quota": {"amount": 100, "window": "YEAR"}},
    {"name": "calls", "quota": {"amount": 1_000, "window": "YEAR"}, "counts": "CALLS", "resource": "orders.*"},
    {"name": "search", "quota": {"amount": 9, "window": "YEAR"}, "resource": "search*"},
]
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
