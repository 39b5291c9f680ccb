"""Reservations, and limits of calls at once, as callers see them on each transport."""

import time
from datetime import timedelta
from itertools import count

import grpc
import pytest
import redis
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from api.envoy.wire import ask, descriptor
from fixtures.served import Serve, Server
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    BatchCheckLimitRequest,
    CheckLimitRequest,
    CheckLimitResponse,
    ExtendHoldRequest,
    SettleLimitRequest,
    SettleLimitResponse,
)
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub

HOLD = Duration(seconds=30)


@pytest.fixture(scope="module", params=["envoy", "grpcio"])
def server(request: pytest.FixtureRequest, serve: Serve) -> Server:
    """A server that waits for its store longer than a busy machine stands still, or a disk that others use."""
    return serve(request.param, store_timeout=5.0, store_slow=5.0)


_names = count()

Limits = list[dict[str, object]]
TOKENS: Limits = [
    {"name": "tokens", "quota": {"amount": 100, "window": "YEAR"}, "overdraft": {"tokens": 50}},
    {"name": "calls", "quota": {"amount": 5, "window": "YEAR"}, "counts": "CALLS"},
]
TWO_AT_ONCE: Limits = [{"name": "at-once", "concurrency": {"max": 2, "default_hold": timedelta(seconds=2)}}]


def new_key(server: Server, limits: Limits) -> str:
    """The secret of a new key with a plan of these limits, which the server has read."""
    plan = f"reserved-{next(_names)}"
    request = admin_pb2.ManagePlanRequest(create={"plan": {"name": plan, "limits": limits}})
    server.manage().ManagePlan(request, metadata=server.as_admin)
    secret = server.key(plan)[1]
    # Without a timeout a call waits for a second until its key is read, and is denied then.
    peek = RateLimitServiceStub(server.channel).CheckLimit(CheckLimitRequest(api_key=secret, cost=0), timeout=20)
    assert peek.source != CheckLimitResponse.DEGRADED, peek
    return secret


def left(response: CheckLimitResponse | SettleLimitResponse) -> dict[str, int]:
    """What each limit has left."""
    return {limit.name: limit.remaining for limit in response.limits}


def reason_of(error: grpc.RpcError) -> str:
    """The reason in an error's details."""
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return info.reason


def test_the_actual_cost_takes_the_place_of_the_estimate(server: Server) -> None:
    """Less comes back, more is owed as far as the overdraft goes, and a repeat changes nothing."""
    secret, stub = new_key(server, TOKENS), RateLimitServiceStub(server.channel)
    reserved = stub.CheckLimit(CheckLimitRequest(api_key=secret, cost=60, hold=HOLD))
    assert (reserved.allowed, left(reserved)) == (True, {"tokens": 40, "calls": 4, "open_reservations": 9_999})
    assert 64 <= len(reserved.reservation_id) <= 400
    for _ in range(2):
        settled = stub.SettleLimit(SettleLimitRequest(reservation_id=reserved.reservation_id, actual_cost=10))
        assert (settled.allowed, settled.clamped, left(settled)) == (True, 0, {"tokens": 90, "calls": 4})
    second = stub.CheckLimit(CheckLimitRequest(api_key=secret, cost=60, hold=HOLD))
    assert left(second)["open_reservations"] == 9_999
    settled = stub.SettleLimit(SettleLimitRequest(reservation_id=second.reservation_id, actual_cost=145))
    assert (settled.allowed, settled.clamped, left(settled)) == (False, 5, {"tokens": -50, "calls": 3})
    denied = stub.CheckLimit(CheckLimitRequest(api_key=secret, cost=60, hold=HOLD))
    assert (denied.allowed, denied.limit, denied.reservation_id) == (False, "tokens", "")


def test_a_repeated_reservation_is_one(server: Server) -> None:
    """By its `request_id`: it has the same id and is charged once."""
    secret, stub = new_key(server, TOKENS), RateLimitServiceStub(server.channel)
    request = CheckLimitRequest(api_key=secret, cost=60, hold=HOLD, request_id="one")
    first, again = stub.CheckLimit(request), stub.CheckLimit(request)
    assert (first.reservation_id, left(first)["tokens"]) == (again.reservation_id, 40)
    settled = stub.SettleLimit(SettleLimitRequest(reservation_id=first.reservation_id, actual_cost=0))
    assert left(settled)["tokens"] == 100


def test_a_request_id_that_comes_again_while_it_is_open(server: Server) -> None:
    """Is that reservation, also after its window: it has one estimate and one settlement."""
    secret = new_key(server, TOKENS)
    own = {"api_key": secret, "cost": 60, "hold": HOLD, "request_id": "job"}
    stub = RateLimitServiceStub(server.channel)
    first = stub.CheckLimit(CheckLimitRequest(**own))
    store = redis.Redis.from_url(server.settings.redis_url.get_secret_value())
    for key in store.scan_iter("{p*}:r:*"):  # as if its window were over
        store.delete(key)
    again = stub.CheckLimit(CheckLimitRequest(**own))
    assert (again.allowed, again.reservation_id, left(again)["tokens"]) == (True, first.reservation_id, 40)


def test_a_call_counts_whatever_its_estimate(server: Server) -> None:
    """With an estimate of 0, too, and it stays counted when it is settled."""
    secret, stub = new_key(server, TOKENS), RateLimitServiceStub(server.channel)
    made = stub.CheckLimit(CheckLimitRequest(api_key=secret, cost=0, hold=HOLD))
    assert left(made)["calls"] == 4
    settled = stub.SettleLimit(SettleLimitRequest(reservation_id=made.reservation_id, actual_cost=0))
    assert left(settled) == {"tokens": 100, "calls": 4}


def test_the_limit_in_force_takes_what_is_settled(server: Server) -> None:
    """A plan that has changed meanwhile: the overdraft is that of now."""
    name = f"changed-{next(_names)}"
    manage = server.manage().ManagePlan

    def plan(overdraft: int) -> dict[str, object]:
        limit = {"name": "tokens", "quota": {"amount": 100, "window": "YEAR"}, "overdraft": {"tokens": overdraft}}
        return {"name": name, "limits": [limit]}

    manage(admin_pb2.ManagePlanRequest(create={"plan": plan(0)}), metadata=server.as_admin)
    secret, stub = server.key(name)[1], RateLimitServiceStub(server.channel)
    made = stub.CheckLimit(CheckLimitRequest(api_key=secret, cost=60, hold=HOLD))
    update = {"plan": plan(500), "update_mask": {"paths": ["limits"]}}
    manage(admin_pb2.ManagePlanRequest(update=update), metadata=server.as_admin)
    deadline = time.monotonic() + 5
    explain = admin_pb2.ExplainLimitRequest(api_key=secret, cost=0)
    while not _owes(server.manage().ExplainLimit(explain, metadata=server.as_admin), 500):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    settled = stub.SettleLimit(SettleLimitRequest(reservation_id=made.reservation_id, actual_cost=400))
    assert (settled.clamped, left(settled)["tokens"]) == (0, -300)


def _owes(explained: admin_pb2.ExplainLimitResponse, tokens: int) -> bool:
    return explained.limits[0].limit.overdraft.tokens == tokens


def test_a_repeat_after_the_key_got_another_plan(server: Server) -> None:
    """Is the same reservation, charged once: its settlement changes the limits that it was charged to, and no other."""
    names = [f"moved-{next(_names)}" for _ in range(2)]
    tokens = {"name": "tokens", "overdraft": {"tokens": 50}}
    year = {"quota": {"amount": 1_000, "window": "YEAR"}}
    plans: list[Limits] = [
        [{"name": "before", **year}, {**tokens, "quota": {"amount": 100, "window": "YEAR"}}, *TWO_AT_ONCE],
        [{**TWO_AT_ONCE[0], "name": "together"}, {"name": "after", **year}, {**tokens, **year}],
    ]
    for name, limits in zip(names, plans, strict=True):
        request = admin_pb2.ManagePlanRequest(create={"plan": {"name": name, "limits": limits}})
        server.manage().ManagePlan(request, metadata=server.as_admin)
    key_id, secret = server.key(names[0])
    stub = RateLimitServiceStub(server.channel)
    own = CheckLimitRequest(api_key=secret, cost=60, hold=HOLD, request_id="order-7")
    first = stub.CheckLimit(own)
    assert {"before": 940, "tokens": 40, "at-once": 1}.items() <= left(first).items()
    update = {"key": {"key_id": key_id, "plan": names[1]}, "update_mask": {"paths": ["plan"]}}
    server.manage().ManageKey(admin_pb2.ManageKeyRequest(update=update), metadata=server.as_admin)
    deadline = time.monotonic() + 5
    while stub.CheckLimit(CheckLimitRequest(api_key=secret, cost=0)).plan != names[1]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    other = stub.CheckLimit(CheckLimitRequest(api_key=secret, cost=20, hold=HOLD))
    now = {"after": 980, "tokens": 920, "together": 1}
    assert now.items() <= left(other).items()
    again = stub.CheckLimit(own)
    assert again.allowed
    assert now.items() <= left(again).items()
    for reservation_id in (again.reservation_id, first.reservation_id):
        stub.SettleLimit(SettleLimitRequest(reservation_id=reservation_id, actual_cost=10))
    assert left(stub.CheckLimit(CheckLimitRequest(api_key=secret, cost=0, hold=HOLD))) == {
        "after": 980,
        "tokens": 970,
        "together": 0,
        "open_reservations": 9_998,
    }


def test_a_hold_ends_unless_it_is_extended(server: Server) -> None:
    """Then its estimate stays charged, and it can be neither settled nor extended."""
    secret, stub = new_key(server, TOKENS), RateLimitServiceStub(server.channel)
    second = Duration(seconds=1)
    checks = [CheckLimitRequest(api_key=secret, cost=10, hold=second) for _ in range(2)]
    ended, extended = (
        result.decision.reservation_id for result in stub.BatchCheckLimit(BatchCheckLimitRequest(checks=checks)).results
    )
    held = stub.ExtendHold(ExtendHoldRequest(reservation_id=extended, hold=HOLD)).hold
    assert held.ToSeconds() == 30
    time.sleep(1.2)
    for call in (
        lambda: stub.SettleLimit(SettleLimitRequest(reservation_id=ended, actual_cost=0)),
        lambda: stub.ExtendHold(ExtendHoldRequest(reservation_id=ended, hold=HOLD)),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.NOT_FOUND, "RESERVATION_NOT_FOUND")
    settled = stub.SettleLimit(SettleLimitRequest(reservation_id=extended, actual_cost=0))
    assert left(settled) == {"tokens": 90, "calls": 3}


def test_an_id_that_no_server_made(server: Server) -> None:
    """Is that of no reservation, also if it is another's with a byte changed."""
    secret, stub = new_key(server, TOKENS), RateLimitServiceStub(server.channel)
    real = stub.CheckLimit(CheckLimitRequest(api_key=secret, cost=60, hold=HOLD)).reservation_id
    changed = [real[:at] + ("A" if real[at] != "A" else "B") + real[at + 1 :] for at in range(0, len(real) - 2, 7)]
    for made_up in ("x", "ü", "A" * 8_192, "A" * 10_000, *changed):
        with pytest.raises(grpc.RpcError) as caught:
            stub.SettleLimit(SettleLimitRequest(reservation_id=made_up, actual_cost=0))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND, made_up
    settled = stub.SettleLimit(SettleLimitRequest(reservation_id=real, actual_cost=60))
    assert left(settled)["tokens"] == 40


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("hold", CheckLimitRequest(hold=Duration(nanos=1))),
        ("hold", CheckLimitRequest(hold=Duration(seconds=3_601))),
        ("hold", CheckLimitRequest(hold=Duration(seconds=-1))),
        ("hold", CheckLimitRequest(hold=HOLD, charge=CheckLimitRequest.ALWAYS)),
        ("reservation_id", SettleLimitRequest(actual_cost=1)),
        ("actual_cost", SettleLimitRequest(reservation_id="x")),
        ("actual_cost", SettleLimitRequest(reservation_id="x", actual_cost=2**63)),
        ("hold", ExtendHoldRequest(reservation_id="x")),
        ("hold", ExtendHoldRequest(reservation_id="x", hold=Duration())),
        ("reservation_id", ExtendHoldRequest(hold=HOLD)),
    ],
)
def test_what_is_invalid_is_named(
    server: Server, field: str, request_: CheckLimitRequest | SettleLimitRequest | ExtendHoldRequest
) -> None:
    """With its field, and nothing is charged."""
    stub = RateLimitServiceStub(server.channel)
    calls = {CheckLimitRequest: stub.CheckLimit, SettleLimitRequest: stub.SettleLimit}
    if isinstance(request_, CheckLimitRequest):
        request_.api_key = new_key(server, TOKENS)
    with pytest.raises(grpc.RpcError) as caught:
        calls.get(type(request_), stub.ExtendHold)(request_)
    assert (caught.value.code(), field in caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_calls_at_once(server: Server) -> None:
    """A slot comes back when its call is settled, or when its hold ends. A denial has no time to wait for."""
    secret, stub = new_key(server, TWO_AT_ONCE), RateLimitServiceStub(server.channel)
    first, second, denied = (stub.CheckLimit(CheckLimitRequest(api_key=secret, cost=7)) for _ in range(3))
    assert [left(one)["at-once"] for one in (first, second, denied)] == [1, 0, 0]
    assert (denied.allowed, denied.reason, denied.limit) == (False, CheckLimitResponse.OVER_LIMIT, "at-once")
    assert not denied.HasField("retry_after")
    assert not denied.limits[0].HasField("retry_after")
    assert stub.CheckLimit(CheckLimitRequest(api_key=secret, cost=0)).allowed  # a peek takes none
    settled = stub.SettleLimit(SettleLimitRequest(reservation_id=first.reservation_id, actual_cost=0))
    assert left(settled) == {"at-once": 1}
    third = stub.CheckLimit(CheckLimitRequest(api_key=secret, cost=0, hold=HOLD))
    assert (third.allowed, left(third)["at-once"]) == (True, 0)
    time.sleep(3.1)
    assert left(stub.CheckLimit(CheckLimitRequest(api_key=secret, cost=0)))["at-once"] == 1  # that of `second`
    explained = server.manage().ExplainLimit(
        admin_pb2.ExplainLimitRequest(api_key=secret, cost=0), metadata=server.as_admin
    )
    assert left(explained.decision)["at-once"] == 1


def test_a_shadow_limit_on_calls_at_once(server: Server) -> None:
    """Makes no reservations that nobody knows of: only calls with a hold are counted, and none is denied."""
    secret, stub = new_key(server, [{**TWO_AT_ONCE[0], "mode": "SHADOW"}]), RateLimitServiceStub(server.channel)
    plain = [stub.CheckLimit(CheckLimitRequest(api_key=secret)) for _ in range(3)]
    assert [(one.allowed, one.reservation_id, len(one.limits)) for one in plain] == [(True, "", 0)] * 3
    held = [stub.CheckLimit(CheckLimitRequest(api_key=secret, hold=HOLD)) for _ in range(3)]
    assert [(one.allowed, one.limits[0].would_deny) for one in held] == [(True, False), (True, False), (True, True)]
    for one in held:
        settled = stub.SettleLimit(SettleLimitRequest(reservation_id=one.reservation_id, actual_cost=1))
    assert left(settled) == {"at-once": 2}


def test_a_name_that_the_service_has_itself(server: Server) -> None:
    """Cannot be that of a plan's limit."""
    limit = {"name": "open_reservations", "concurrency": TWO_AT_ONCE[0]["concurrency"]}
    with pytest.raises(grpc.RpcError) as caught:
        new_key(server, [limit])
    assert "limits[0].name" in caught.value.details()


def test_who_does_not_say_when_a_call_ends_takes_no_slot(server: Server) -> None:
    """ShouldRateLimit: the limits that count tokens decide."""
    secret = new_key(server, TWO_AT_ONCE)
    for _ in range(3):
        assert ask(server, descriptor(("api_key", secret))).overall_code == 1
    stub = RateLimitServiceStub(server.channel)
    assert left(stub.CheckLimit(CheckLimitRequest(api_key=secret, cost=0)))["at-once"] == 2
