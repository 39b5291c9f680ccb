"""Domains whose calls are held: ShouldRateLimit reserves at a call's begin, and settles at its end."""

import json
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import count

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from api.envoy.test_llm import run
from api.envoy.wire import OK, OVER_LIMIT, ask, descriptor, limit_headers, put_rules
from fixtures.served import Server
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, SettleLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.management.tokens import Role

_names = count()
HOLD = Duration(seconds=30)
RULE = {"key": "a", "limits": [{"quota": {"amount": 5, "window": "YEAR"}}]}
LIMITS = [
    {"name": "tokens", "quota": {"amount": 100, "window": "YEAR"}, "overdraft": {"tokens": 50}},
    {"name": "at-once", "concurrency": {"max": 2, "default_hold": timedelta(seconds=2)}},
]


@pytest.fixture
def secret(server: Server) -> str:
    """A key with 100 tokens that may owe 50, and two calls at once."""
    plan = f"held-{next(_names)}"
    request = admin_pb2.ManagePlanRequest(create={"plan": {"name": plan, "limits": LIMITS}})
    server.manage().ManagePlan(request, metadata=server.as_admin)
    return server.key(plan)[1]


@pytest.fixture
def domain(server: Server) -> str:
    """One whose calls are held for 30 seconds."""
    return put_rules(server, RULE, hold=HOLD)


def reserve(server: Server, domain: str, secret: str, hits: int) -> RateLimitResponse:
    """The response to the begin of a call."""
    return ask(server, descriptor(("api_key", secret), hits_addend={"value": hits}), domain=domain)


def settle(server: Server, domain: str, reservation_id: str, hits: int, role: Role | None = Role.GATEWAY) -> int:
    """The code of the response to its end."""
    end = descriptor(("reservation_id", reservation_id), hits_addend={"value": hits})
    return ask(server, end, domain=domain, token=role and server.tokens[role]).overall_code


def id_of(response: RateLimitResponse) -> str:
    """The id in the response's dynamic metadata."""
    return response.dynamic_metadata.fields["reservation_id"].string_value


def left(server: Server, secret: str) -> int:
    """The tokens left, by a peek."""
    response = RateLimitServiceStub(server.channel).CheckLimit(CheckLimitRequest(api_key=secret, cost=0))
    return next(limit.remaining for limit in response.limits if limit.name == "tokens")


def test_a_call_from_begin_to_end(server: Server, domain: str, secret: str) -> None:
    """Its estimate is charged, the id comes back with the actual cost, more than once, and takes effect once."""
    begun = reserve(server, domain, secret, 60)
    (status,) = begun.statuses
    assert (begun.overall_code, status.limit_remaining, status.current_limit.name) == (OK, 40, "tokens")
    assert list(begun.dynamic_metadata.fields) == ["reservation_id"]
    headers = limit_headers(begun)
    assert headers["ratelimit"].startswith('"tokens";r=40;')
    for _ in range(2):
        assert settle(server, domain, id_of(begun), 25) == OK
    assert left(server, secret) == 75
    again = reserve(server, domain, secret, 60)
    assert id_of(again) not in {"", id_of(begun)}
    assert settle(server, domain, id_of(again), 100) == OVER_LIMIT
    assert left(server, secret) == -25


def test_the_same_reservations_as_by_check_limit(server: Server, domain: str, secret: str) -> None:
    """What one method reserves the other settles."""
    stub = RateLimitServiceStub(server.channel)
    begun = reserve(server, domain, secret, 60)
    assert stub.SettleLimit(SettleLimitRequest(reservation_id=id_of(begun), actual_cost=1)).allowed
    other = stub.CheckLimit(CheckLimitRequest(api_key=secret, cost=60, hold=HOLD))
    assert settle(server, domain, other.reservation_id, 2) == OK
    assert left(server, secret) == 97


def test_calls_at_once(server: Server, domain: str, secret: str) -> None:
    """A call of 0 hits takes a slot, too; a third is denied by name, without a wait, until one has ended."""
    first, second = reserve(server, domain, secret, 0), reserve(server, domain, secret, 10)
    assert (first.overall_code, second.overall_code) == (OK, OK)
    denied = reserve(server, domain, secret, 0)
    assert (denied.overall_code, denied.HasField("dynamic_metadata")) == (OVER_LIMIT, False)
    assert denied.statuses[0].current_limit.name == "at-once"
    assert b'"violated-policies": ["at-once"]' in denied.raw_body
    assert "retry-after" not in limit_headers(denied)
    assert settle(server, domain, id_of(first), 0) == OK
    assert reserve(server, domain, secret, 0).overall_code == OK
    assert left(server, secret) == 90


def test_a_budget_that_has_ended(server: Server, domain: str, secret: str) -> None:
    """Denied with the time to wait, and nothing to settle; so is an estimate above what the limit ever has."""
    begun = reserve(server, domain, secret, 100)
    denied = reserve(server, domain, secret, 1)
    headers = limit_headers(denied)
    assert (denied.overall_code, denied.statuses[0].current_limit.name) == (OVER_LIMIT, "tokens")
    assert int(headers["retry-after"]) > 0
    assert settle(server, domain, id_of(begun), 0) == OK
    never = reserve(server, domain, secret, 101)
    assert (never.overall_code, never.HasField("dynamic_metadata")) == (OVER_LIMIT, False)


@pytest.mark.parametrize("role", [None, Role.VIEWER, Role.ADMIN])
def test_others_settle_nothing(server: Server, domain: str, secret: str, role: Role | None) -> None:
    """Whoever is no gateway gives himself nothing back; it is no error, on which a gateway would let him pass."""
    begun = reserve(server, domain, secret, 60)
    assert settle(server, domain, id_of(begun), 0, role) == OK
    assert left(server, secret) == 40
    assert settle(server, domain, id_of(begun), 0) == OK
    assert left(server, secret) == 100


def test_the_cost_that_nobody_knows(server: Server, domain: str, secret: str) -> None:
    """An end without hits of its own settles at the estimate; beside one that has some it changes nothing."""
    gateway = server.tokens[Role.GATEWAY]
    for own, expected in ((None, 40), (5, 35)):
        begun = reserve(server, domain, secret, 60 if own is None else 20)
        end = ("reservation_id", id_of(begun))
        ends = [descriptor(end)] if own is None else [descriptor(end), descriptor(end, hits_addend={"value": own})]
        assert ask(server, *ends, domain=domain, token=gateway).overall_code == OK
        assert left(server, secret) == expected
        late = ask(server, descriptor(end, hits_addend={"value": 0}), domain=domain, token=gateway)
        assert (late.overall_code, left(server, secret)) == (OK, expected)
    other = descriptor(("reservation_id", "other"), hits_addend={"value": 0})
    mixed = ask(server, descriptor(end), other, domain=domain, token=gateway)
    assert (mixed.overall_code, list(mixed.statuses)) == (OVER_LIMIT, [])


def test_what_no_server_reserved(server: Server, domain: str, secret: str) -> None:
    """An id that was made up, or is empty: nothing to settle, and nothing that a proxy would repeat."""
    assert settle(server, domain, "made-up", 5) == OK
    assert settle(server, domain, "", 5) == OVER_LIMIT
    assert left(server, secret) == 100


def test_keys_that_are_refused(server: Server, domain: str) -> None:
    """A key that nobody knows is denied as everywhere."""
    denied = reserve(server, domain, "rlk_live_made_up", 1)
    assert (denied.overall_code, denied.HasField("dynamic_metadata")) == (OVER_LIMIT, False)
    assert b"KEY_UNKNOWN" in denied.raw_body


def test_one_descriptor_for_each_call(server: Server, domain: str, secret: str) -> None:
    """More are the route's mistake and denied as such; what has no key is decided by the rules, however many."""
    key, rule = descriptor(("api_key", secret)), descriptor(("a", "1"))
    for descriptors in ((key, rule), (rule, key), (key, key), (rule, descriptor(("reservation_id", "x")))):
        response = ask(server, *descriptors, domain=domain, token=server.tokens[Role.GATEWAY])
        assert (response.overall_code, list(response.statuses)) == (OVER_LIMIT, [])
        assert b"ROUTE_MISCONFIGURED" in response.raw_body
    response = ask(server, rule, rule, domain=domain)
    assert [status.limit_remaining for status in response.statuses] == [3, 3]
    assert left(server, secret) == 100


def test_refunds_are_no_reservations(server: Server, domain: str, secret: str) -> None:
    """Of a gateway one is denied as malformed, of a stranger it is a call of no tokens."""
    refund = descriptor(("api_key", secret), hits_addend={"value": 5}, is_negative_hits=True)
    gateway = ask(server, refund, domain=domain, token=server.tokens[Role.GATEWAY])
    assert (gateway.overall_code, list(gateway.statuses)) == (OVER_LIMIT, [])
    stranger = ask(server, refund, domain=domain)
    assert (stranger.overall_code, id_of(stranger) != "") == (OK, True)
    assert left(server, secret) == 100


def test_a_hold_begins_and_ends_with_the_rules(server: Server, secret: str) -> None:
    """The same bytes are reserved as long as the domain says so; else `reservation_id` is a key like any other."""
    domain = put_rules(server, RULE)
    assert not id_of(reserve(server, domain, secret, 1))
    for hold in ("30s", None):
        rules = {"domain": domain, "descriptors": [{"key": "reservation_id", "limits": [{"blocked": {}}]}]}
        run(server, "rules", "replace", "--yes", "-", text=json.dumps(rules | ({} if hold is None else {"hold": hold})))
        until(lambda hold=hold: bool(id_of(reserve(server, domain, secret, 0))) is bool(hold))
    assert settle(server, domain, "anything", 1) == OVER_LIMIT


def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"hold": Duration(nanos=500_000_000)}, "between 1s and 1 hour"),
        ({"hold": Duration(seconds=3_601)}, "between 1s and 1 hour"),
        ({"hold": HOLD, "charge": "ALWAYS"}, "leave one of them out"),
    ],
)
def test_holds_that_no_domain_can_have(server: Server, fields: dict[str, object], why: str) -> None:
    """Out of bounds, or beside charges that are made afterwards."""
    with pytest.raises(grpc.RpcError) as caught:
        put_rules(server, RULE, **fields)
    assert (caught.value.code(), why in caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, True)
