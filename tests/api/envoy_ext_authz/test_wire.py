"""Authorization/Check on the wire, as in Envoy's protocol."""

import json
import time
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from api.envoy.wire import AUTHORIZE, authorize, send
from fixtures.served import Server
from ratelimit_service._gen.envoy.config.core.v3.base_pb2 import HeaderValueOption
from ratelimit_service._gen.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service.api.denial import PROBLEM_TYPE
from ratelimit_service.decision.api_key import ApiKey

OVERWRITE = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


def values(options: list[HeaderValueOption]) -> dict[str, str]:
    """Headers by name."""
    return {option.header.key: option.header.value for option in options}


def all_headers(response: CheckResponse) -> list[HeaderValueOption]:
    """All headers that a response sets, wherever."""
    ok = response.ok_response
    return [*ok.headers, *ok.response_headers_to_add, *response.denied_response.headers]


def problem(response: CheckResponse) -> dict[str, object]:
    """The problem in a denial's body."""
    read: dict[str, object] = json.loads(response.denied_response.body)
    return read


def act(server: Server, **action: object) -> None:
    """Do one thing to a key."""
    server.manage().ManageKey(admin_pb2.ManageKeyRequest(**action), metadata=server.as_admin)


def time_after(seconds: float) -> Timestamp:
    """A time so far from now."""
    moment = Timestamp()
    moment.FromNanoseconds(time.time_ns() + round(seconds * 1e9))
    return moment


def test_an_allowed_request(server: Server) -> None:
    """Status 0, who it is for the upstream and for access logs, the key removed, the limits for the client."""
    key_id, key = server.key("once")
    response = authorize(server, x_api_key=key)
    assert response.status.code == 0
    assert response.WhichOneof("http_response") == "ok_response"
    identity = values(response.ok_response.headers)
    assert identity["x-ratelimit-key-id"] == key_id
    assert identity["x-ratelimit-plan"] == "once"
    assert identity["x-ratelimit-subject"].startswith("subject-")
    assert list(response.ok_response.headers_to_remove) == ["x-api-key"]
    assert values(response.ok_response.response_headers_to_add)["ratelimit"] == '"burst";r=19;t=86400'
    metadata = dict(response.dynamic_metadata.items())
    assert metadata == {
        "allowed": True,
        "reason": "WITHIN_LIMIT",
        "key_id": key_id,
        "subject": identity["x-ratelimit-subject"],
        "plan": "once",
    }


def test_over_the_limit(server: Server) -> None:
    """429 with a problem, when to try again, and what denied it for access logs; status not 0."""
    key_id, key = server.key("once")
    authorize(server, extensions={"cost": "20"}, x_api_key=key)
    response = authorize(server, x_api_key=key)
    assert response.status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    denied = response.denied_response
    assert denied.status.code == 429
    headers = values(denied.headers)
    assert headers["content-type"] == PROBLEM_TYPE
    assert headers["ratelimit"] == f'"burst";r=0;t={headers["retry-after"]}'
    assert problem(response)["violated-policies"] == ["burst"]
    assert (problem(response)["reason"], problem(response)["status"]) == ("OVER_LIMIT", 429)
    metadata = dict(response.dynamic_metadata.items())
    assert (metadata["allowed"], metadata["reason"], metadata["key_id"]) == (False, "OVER_LIMIT", key_id)
    assert metadata["limit"] == "burst"


def test_more_than_a_limit_ever_holds(server: Server) -> None:
    """429 without Retry-After: no wait would help."""
    _, key = server.key("once")
    response = authorize(server, extensions={"cost": "21"}, x_api_key=key)
    assert response.denied_response.status.code == 429
    assert "retry-after" not in values(response.denied_response.headers)
    assert problem(response)["reason"] == "COST_EXCEEDS_CAPACITY"


@pytest.mark.parametrize("cost", ["1", "0"])
def test_invalid_keys(server: Server, cost: str) -> None:
    """401 with a challenge for no key, one that is malformed, unknown, revoked or expired; 403 for a suspended one.

    The same on a route that only identifies the caller.
    """
    revoked_id, revoked = server.key()
    act(server, revoke={"key_id": revoked_id})
    suspended_id, suspended = server.key()
    act(server, suspend={"key_id": suspended_id})
    expired_id, expired = server.key()
    soon = {"key_id": expired_id, "expire_time": time_after(0.5)}
    act(server, update={"key": soon, "update_mask": {"paths": ["expire_time"]}})
    time.sleep(1)
    _, known = server.key()
    unknown = _with_other_secret(known)
    for header, status, reason in (
        (None, 401, "KEY_MISSING"),
        ("", 401, "KEY_MISSING"),
        ("garbage", 401, "KEY_UNKNOWN"),
        (f"{known},{known}", 401, "KEY_UNKNOWN"),
        (unknown, 401, "KEY_UNKNOWN"),
        (revoked, 401, "KEY_REVOKED"),
        (expired, 401, "KEY_EXPIRED"),
        (suspended, 403, "KEY_SUSPENDED"),
    ):
        headers = {} if header is None else {"x_api_key": header}
        response = authorize(server, extensions={"cost": cost}, **headers)
        assert (response.denied_response.status.code, problem(response)["reason"]) == (status, reason)
        assert response.status.code in {16, 7}
        assert ("www-authenticate" in values(response.denied_response.headers)) == (status == 401)
        assert response.dynamic_metadata["reason"] == reason


def test_every_header_overwrites(server: Server) -> None:
    """Every header of every response has the action that overwrites: Envoy's default would append."""
    _, key = server.key("once")
    allowed = authorize(server, x_api_key=key)
    denied = authorize(server, extensions={"cost": "21"}, x_api_key=key)
    for response in (allowed, denied, authorize(server), authorize(server, content_type="application/grpc")):
        options = all_headers(response)
        assert options
        assert {option.append_action for option in options} == {OVERWRITE}


def test_a_route_that_identifies_the_caller(server: Server) -> None:
    """With a cost of 0 no limit is charged, denies or is reported; invalid keys are denied, valid ones identified."""
    key_id, key = server.key("once")
    authorize(server, extensions={"cost": "20"}, x_api_key=key)
    response = authorize(server, extensions={"cost": "0"}, x_api_key=key)
    assert response.status.code == 0
    assert values(response.ok_response.headers)["x-ratelimit-key-id"] == key_id
    assert not response.ok_response.response_headers_to_add
    assert authorize(server, extensions={"cost": "0"}, x_api_key="garbage").denied_response.status.code == 401


def test_resource_and_cost_of_the_route(server: Server) -> None:
    """context_extensions set resource and cost; else the resource is the method and the path, however escaped."""
    plan = {
        "name": "by-resource",
        "limits": [
            {"name": "orders", "resource": "orders.*", "quota": {"amount": 10, "window": "DAY"}},
            {"name": "path", "resource": "GET /v1/*", "quota": {"amount": 50, "window": "DAY"}},
        ],
    }
    server.manage().ManagePlan(admin_pb2.ManagePlanRequest(create={"plan": plan}), metadata=server.as_admin)
    _, key = server.key("by-resource")

    def reported(path: str, **extensions: str) -> str:
        response = authorize(server, path, extensions=extensions, x_api_key=key)
        return values(response.ok_response.response_headers_to_add).get("ratelimit", "").partition(";t=")[0]

    assert reported("/v1/x", resource="orders.create", cost="4") == '"orders";r=6'
    assert reported("/v1/x", resource="orders.create", cost="0") == ""
    assert reported("/v1/x", resource="orders.create") == '"orders";r=5'
    assert reported("/v1/x?page=2") == '"path";r=49'
    assert reported("/%76%31/x") == '"path";r=48'
    assert reported("/v1/" + "long" * 500) == '"path";r=47'
    assert reported("/v1/%00%0a") == '"path";r=46'
    assert reported("/v2/x") == ""


def test_methods_of_a_path(server: Server) -> None:
    """HEAD is limited as GET, in any case; and a limit may be for a path with any method that a client makes up."""
    limits = [
        {"name": "any", "resource": "* /search*", "quota": {"amount": 40, "window": "DAY"}},
        {"name": "get", "resource": "GET /v1/*", "quota": {"amount": 50, "window": "DAY"}},
    ]
    plan = {"name": "by-method", "limits": limits}
    server.manage().ManagePlan(admin_pb2.ManagePlanRequest(create={"plan": plan}), metadata=server.as_admin)
    _, key = server.key("by-method")

    def reported(path: str, method: str) -> str:
        response = authorize(server, path, method, x_api_key=key)
        return values(response.ok_response.response_headers_to_add).get("ratelimit", "").partition(";t=")[0]

    found = [reported("/v1/x", method) for method in ("GET", "HEAD", "get", "Head", "POST")]
    assert found == ['"get";r=49', '"get";r=48', '"get";r=47', '"get";r=46', ""]
    methods = ("GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "get")
    assert [reported("/search?q=1", method) for method in methods] == [f'"any";r={left}' for left in range(39, 33, -1)]


def test_a_limit_in_shadow_is_not_reported(server: Server) -> None:
    """Clients see the limits that are enforced, also when only one in shadow would deny."""
    limits = [
        {"name": "dark", "quota": {"amount": 1, "window": "DAY"}, "mode": "SHADOW"},
        {"name": "wide", "quota": {"amount": 50, "window": "DAY"}},
    ]
    plan = {"name": "with-shadow", "limits": limits}
    server.manage().ManagePlan(admin_pb2.ManagePlanRequest(create={"plan": plan}), metadata=server.as_admin)
    _, key = server.key("with-shadow")
    for left in (49, 48):
        headers = values(authorize(server, x_api_key=key).ok_response.response_headers_to_add)
        assert headers["ratelimit-policy"] == '"wide";q=50;w=86400'
        assert headers["x-ratelimit-remaining"] == str(left)


@pytest.mark.parametrize(
    ("extensions", "field"),
    [
        ({"cost": "9007199255"}, "cost"),
        ({"cost": "-1"}, "cost"),
        ({"cost": ""}, "cost"),
        ({"cost": "1.5"}, "cost"),
        ({"cost": "٣"}, "cost"),
        ({"cost": "9" * 5_000}, "cost"),
        ({"resource": "x" * 257}, "resource"),
        ({"resource": "a\nb"}, "resource"),
    ],
)
def test_a_malformed_route(server: Server, extensions: dict[str, str], field: str) -> None:
    """A denial with 500 for its author to notice, and a line in the log that names the entry; nothing is charged.

    Not an error, on which a gateway may let everything pass. Without a key nothing else is read: it is 401.
    """
    _, key = server.key("once")
    denied = authorize(server, extensions=extensions, x_api_key=key).denied_response
    assert denied.status.code == 500
    assert json.loads(denied.body)["reason"] == "ROUTE_MISCONFIGURED"
    server.wait_for_output(f"attributes.context_extensions[{field}]")
    assert authorize(server, extensions=extensions).denied_response.status.code == 401
    allowed = authorize(server, x_api_key=key)
    assert values(allowed.ok_response.response_headers_to_add)["x-ratelimit-remaining"] == "19"


@pytest.mark.parametrize(
    "http",
    [
        {"path": "/" + "x" * 65_536},
        {"path": "/" + "x" * 200_000},
        {"headers": {f"x-{number}": "" for number in range(257)}},
        {"headers": {f"x-{number}": "" for number in range(8_000)}},
        {"headers": {"x": "y" * 70_000}},
        {"header_map": {"headers": [{}] * 257}},
        {"header_map": {"headers": [{}] * 30_000}},
        b"\xff\xff",
        b"\x0a\xff\xff\xff\xff\x0f",
    ],
)
def test_out_of_bounds(server: Server, http: dict[str, Any] | bytes) -> None:
    """413 with a problem, whatever the key: an error would let it pass where Envoy allows on errors."""
    _, key = server.key("once")
    data = http
    if not isinstance(http, bytes):
        request = CheckRequest(attributes={"request": {"http": http}})
        if "header_map" not in http:
            request.attributes.request.http.headers["x-api-key"] = key
        data = request.SerializeToString()
    response = CheckResponse.FromString(send(server, AUTHORIZE, data))
    assert response.status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert response.denied_response.status.code == 413
    assert problem(response)["reason"] == response.dynamic_metadata["reason"] == "REQUEST_OUT_OF_BOUNDS"
    assert values(response.denied_response.headers) == {"content-type": PROBLEM_TYPE}


def test_the_largest_cost(server: Server) -> None:
    """It is decided, to the token."""
    plan = {"name": "largest", "limits": [{"name": "most", "quota": {"amount": 9_007_199_254, "window": "YEAR"}}]}
    server.manage().ManagePlan(admin_pb2.ManagePlanRequest(create={"plan": plan}), metadata=server.as_admin)
    _, key = server.key("largest")
    costs = ("9007199253", "2", "1", "1")
    found = [authorize(server, extensions={"cost": cost}, x_api_key=key).status.code for cost in costs]
    assert found == [0, 8, 0, 8]


def test_raw_headers(server: Server) -> None:
    """With encode_raw_headers the key is found among raw values, and what is no text is no key."""
    _, key = server.key("once")
    for value, code in ((key.encode(), 0), (b"\xff\xfe", 16)):
        headers = [{"key": ":path", "raw_value": b"/"}, {"key": "x-api-key", "raw_value": value}]
        http = {"method": "GET", "path": "/", "header_map": {"headers": headers}}
        data = CheckRequest(attributes={"request": {"http": http}}).SerializeToString()
        assert CheckResponse.FromString(send(server, AUTHORIZE, data)).status.code == code


def test_a_grpc_client(server: Server) -> None:
    """Its denial is a gRPC status with its code and a message, not JSON."""
    response = authorize(server, content_type="application/grpc+proto")
    assert response.denied_response.body == "No API key was sent."
    assert values(response.denied_response.headers)["grpc-status"] == "16"
    web = authorize(server, content_type="application/grpc-web")
    assert problem(web)["reason"] == "KEY_MISSING"


def test_no_response_contains_a_secret(server: Server) -> None:
    """Neither an allowed nor a denied response contains the key."""
    _, key = server.key("once")
    for cost in ("1", "21"):
        assert key.encode() not in authorize(server, extensions={"cost": cost}, x_api_key=key).SerializeToString()


def test_an_empty_request(server: Server) -> None:
    """A request without any attribute has no key."""
    assert CheckResponse.FromString(send(server, AUTHORIZE, b"")).denied_response.status.code == 401


def _with_other_secret(key: str) -> str:
    """A key of the same id with a secret that is not its own."""
    parsed = ApiKey.parse(key)
    return str(ApiKey(parsed.environment, parsed.key_id, parsed.secret[::-1]))
