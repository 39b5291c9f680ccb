"""Charges made when the cost is known, as callers see them on each transport."""

from itertools import count

import grpc
import pytest

from api.envoy.wire import OK, OVER_LIMIT, ask, descriptor, put_rules, quota
from fixtures.served import Server
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    BatchCheckLimitRequest,
    CheckLimitRequest,
    CheckLimitResponse,
)
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.management.tokens import Role

A = ("a", "1")
ALWAYS = CheckLimitRequest.ALWAYS
_names = count()


@pytest.fixture
def secret(server: Server) -> str:
    """A key with a budget of 100 tokens a day that may owe 50, and five calls."""
    plan = f"afterwards-{next(_names)}"
    tokens = {"name": "tokens", "quota": {"amount": 100, "window": "DAY"}, "overdraft": {"tokens": 50}}
    calls = {"name": "calls", "quota": {"amount": 5, "window": "DAY"}, "counts": "CALLS"}
    request = admin_pb2.ManagePlanRequest(create={"plan": {"name": plan, "limits": [tokens, calls]}})
    server.manage().ManagePlan(request, metadata=server.as_admin)
    return server.key(plan)[1]


def test_a_budget_ends_by_what_calls_cost(server: Server, secret: str) -> None:
    """Calls are admitted by a peek and charged when they end: the debt shows, and ends both until it is paid."""
    check = RateLimitServiceStub(server.channel).CheckLimit

    def left(response: CheckLimitResponse) -> list[int]:
        return [limit.remaining for limit in response.limits]

    assert check(CheckLimitRequest(api_key=secret, cost=0)).allowed
    charged = check(CheckLimitRequest(api_key=secret, cost=130, charge=ALWAYS, request_id="one"))
    assert (charged.allowed, charged.limit, charged.remaining, left(charged)) == (False, "tokens", -30, [-30, 4])
    assert charged.HasField("retry_after")
    again = check(CheckLimitRequest(api_key=secret, cost=130, charge=ALWAYS, request_id="one"))
    assert left(again) == [-30, 4]
    for cost in (0, 1):
        denied = check(CheckLimitRequest(api_key=secret, cost=cost))
        assert (denied.allowed, denied.reason) == (False, CheckLimitResponse.OVER_LIMIT)
        assert (denied.limit, denied.remaining) == ("tokens", -30)
    assert left(check(CheckLimitRequest(api_key=secret, cost=1_000, charge=ALWAYS))) == [-50, 3]


def test_a_way_to_charge_that_is_unknown(server: Server, secret: str) -> None:
    """It is an error of that check alone: taken for an ordinary charge, it would not be recorded."""
    stub = RateLimitServiceStub(server.channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.CheckLimit(CheckLimitRequest(api_key=secret, charge=7))  # type: ignore[arg-type]
    assert (caught.value.code(), "charge" in caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    checks = [CheckLimitRequest(api_key=secret, charge=charge) for charge in (7, ALWAYS)]  # type: ignore[arg-type]
    results = stub.BatchCheckLimit(BatchCheckLimitRequest(checks=checks)).results
    assert (results[0].error.field, results[1].decision.allowed) == ("charge", True)


def test_a_proxy_charges_when_the_response_has_ended(server: Server, secret: str) -> None:
    """By rules that charge ALWAYS, and in their domain by the plan of a key; headers and statuses show no debt as 0."""
    rule = {"key": "a", "limits": [quota(10) | {"overdraft": {"unbounded": True}}]}
    domain = put_rules(server, rule, charge="ALWAYS")
    gateway = server.tokens[Role.GATEWAY]
    response = ask(server, descriptor(A, hits_addend={"value": 25}), domain=domain, token=gateway)
    assert (response.overall_code, response.statuses[0].limit_remaining) == (OVER_LIMIT, 0)
    peek = descriptor(A, hits_addend={"value": 0})
    assert ask(server, peek, domain=domain).overall_code == OVER_LIMIT
    refund = descriptor(A, hits_addend={"value": 20}, is_negative_hits=True)
    assert ask(server, refund, domain=domain, token=gateway).statuses[0].limit_remaining == 5
    key = descriptor(("api_key", secret), hits_addend={"value": 120})
    assert ask(server, key, domain=domain, token=gateway).overall_code == OVER_LIMIT
    denied = RateLimitServiceStub(server.channel).CheckLimit(CheckLimitRequest(api_key=secret, cost=0))
    assert (denied.allowed, denied.remaining) == (False, -20)


@pytest.mark.parametrize("role", [None, Role.VIEWER, Role.ADMIN])
def test_others_charge_what_fits(server: Server, role: Role | None) -> None:
    """Whoever is no gateway makes nobody owe anything, by no bytes that a gateway has sent before either."""
    domain = put_rules(server, {"key": "a", "limits": [quota(10) | {"overdraft": {"tokens": 90}}]}, charge="ALWAYS")
    gateway, other = server.tokens[Role.GATEWAY], role and server.tokens[role]
    charge = descriptor(A, hits_addend={"value": 12})
    assert ask(server, charge, domain=domain, token=other).overall_code == OVER_LIMIT
    assert ask(server, descriptor(A, hits_addend={"value": 0}), domain=domain).statuses[0].limit_remaining == 10
    assert ask(server, charge, domain=domain, token=gateway).overall_code == OVER_LIMIT
    for _ in range(2):
        assert ask(server, charge, domain=domain, token=other).overall_code == OVER_LIMIT
    refund = descriptor(A, hits_addend={"value": 3}, is_negative_hits=True)
    response = ask(server, refund, domain=domain, token=gateway)
    assert (response.overall_code, response.statuses[0].limit_remaining) == (OK, 1)
