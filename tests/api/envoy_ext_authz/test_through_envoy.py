"""The authorization service behind a real Envoy, in front of a real upstream."""

import time

import grpc
import pytest

from api.conftest import StartFront
from api.envoy.front import authorized_route, ext_authz_filter, route
from api.envoy.upstream import Upstream
from fixtures.served import Server
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2

SECONDS = 10.0


def test_an_allowed_request(server: Server, front: StartFront) -> None:
    """The upstream gets the caller's identity and not the key; the client gets its limits."""
    envoy = front(ext_authz_filter(), routes=[route()])
    key_id, key = server.key("once")
    reply = envoy.get(x_api_key=key)
    assert reply.status == 200
    assert reply.upstream_headers["x-ratelimit-key-id"] == key_id
    assert reply.upstream_headers["x-ratelimit-plan"] == "once"
    assert reply.upstream_headers["x-ratelimit-subject"].startswith("subject-")
    assert key.encode() not in reply.body
    assert reply.headers["ratelimit"] == '"burst";r=19;t=86400'


def test_no_identity_can_be_smuggled_in(server: Server, front: StartFront) -> None:
    """What a client claims as its identity is replaced, not appended to."""
    envoy = front(ext_authz_filter(), routes=[route()])
    key_id, key = server.key("once")
    mine = {"x_ratelimit_key_id": "root", "x_ratelimit_subject": "root", "x_ratelimit_plan": "root"}
    seen = envoy.get(x_api_key=key, **mine).upstream_headers
    assert seen["x-ratelimit-key-id"] == key_id
    assert seen["x-ratelimit-plan"] == "once"
    assert "root" not in seen["x-ratelimit-subject"]


def test_exactly_what_there_is(server: Server, front: StartFront, upstream: Upstream) -> None:
    """Without a refill exactly 20 of 25 requests pass; the others get 429, a problem and Retry-After."""
    envoy = front(ext_authz_filter(), routes=[route()])
    _, key = server.key("once")
    before = upstream.served
    replies = envoy.burst(25, x_api_key=key)
    denied = [reply for reply in replies if reply.status == 429]
    assert [reply.status for reply in replies].count(200) == upstream.served - before == 20
    assert len(denied) == 5
    for reply in denied:
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.headers["ratelimit"] == f'"burst";r=0;t={reply.headers["retry-after"]}'
        assert reply.json["violated-policies"] == ["burst"]


def test_invalid_keys(server: Server, front: StartFront) -> None:
    """401 with a challenge without a key and with a bad one, 403 with a suspended one."""
    envoy = front(ext_authz_filter(), routes=[route()])
    suspended_id, suspended = server.key("once")
    server.manage().ManageKey(admin_pb2.ManageKeyRequest(suspend={"key_id": suspended_id}), metadata=server.as_admin)
    for headers, status, reason in (
        ({}, 401, "KEY_MISSING"),
        ({"x_api_key": "garbage"}, 401, "KEY_UNKNOWN"),
        ({"x_api_key": b"\xff\xfe"}, 401, "KEY_UNKNOWN"),
        ({"x_api_key": suspended}, 403, "KEY_SUSPENDED"),
    ):
        reply = envoy.get(**headers)
        assert (reply.status, reply.json["reason"]) == (status, reason)
        assert ("www-authenticate" in reply.headers) == (status == 401)


def test_a_revoked_key(server: Server, front: StartFront) -> None:
    """A key that was valid is denied with 401 at most a second after it was revoked."""
    envoy = front(ext_authz_filter(), routes=[route()])
    key_id, key = server.key("wide")
    assert envoy.get(x_api_key=key).status == 200
    server.manage().ManageKey(admin_pb2.ManageKeyRequest(revoke={"key_id": key_id}), metadata=server.as_admin)
    revoked = time.monotonic()
    while (reply := envoy.get(x_api_key=key)).status == 200:
        assert time.monotonic() - revoked < 1
    assert (reply.status, reply.json["reason"]) == (401, "KEY_REVOKED")


def test_resource_and_cost_of_a_route(server: Server, front: StartFront) -> None:
    """A route's resource and cost reach the decision; a malformed one is denied, also where Envoy allows on errors."""
    routes = [
        authorized_route("/dear", cost="19", resource="orders.create"),
        authorized_route("/free", cost="0"),
        authorized_route("/wrong", cost="much"),
        route(),
    ]
    envoy = front(ext_authz_filter(failure_mode_allow=True), routes=routes)
    _, key = server.key("once")
    assert envoy.get("/dear", x_api_key=key).headers["ratelimit"].startswith('"burst";r=1;')
    assert envoy.get("/free", x_api_key=key).status == 200
    assert [envoy.get(path, x_api_key=key).status for path in ("/x", "/x", "/free")] == [200, 429, 200]
    wrong = envoy.get("/wrong", x_api_key=key)
    assert (wrong.status, wrong.json["reason"]) == (500, "ROUTE_MISCONFIGURED")


def test_access_logs(server: Server, front: StartFront) -> None:
    """What was decided is in Envoy's metadata for its access log, of allowed and denied requests, without the key."""
    envoy = front(ext_authz_filter(), routes=[authorized_route("/dear", cost="21"), route()])
    key_id, key = server.key("once")
    envoy.get(x_api_key=key)
    envoy.get("/dear", x_api_key=key)
    envoy.get()
    deadline = time.monotonic() + 30
    while len(envoy.log) < 3:  # Envoy writes what it has buffered every few seconds
        assert time.monotonic() < deadline, envoy.output
        time.sleep(0.1)
    allowed, denied, anonymous = (line["authorization"] for line in envoy.log)
    assert (allowed["allowed"], allowed["reason"], allowed["key_id"]) == (True, "WITHIN_LIMIT", key_id)
    assert (denied["allowed"], denied["limit"], denied["plan"]) == (False, "burst", "once")
    assert (anonymous["allowed"], anonymous["reason"]) == (False, "KEY_MISSING")
    assert key not in envoy.output


def test_grpc_clients(server: Server, front: StartFront) -> None:
    """A gRPC client gets a status with a message: RESOURCE_EXHAUSTED, not the UNAVAILABLE that Envoy makes of 429."""
    envoy = front(ext_authz_filter(), routes=[authorized_route("/dear", cost="21"), route()])
    _, key = server.key("once")
    with grpc.insecure_channel(f"127.0.0.1:{envoy.port}") as channel:
        for method, metadata, code, words in (
            ("/dear.Service/Method", (("x-api-key", key),), grpc.StatusCode.RESOURCE_EXHAUSTED, "costs more than"),
            ("/a.Service/Method", (), grpc.StatusCode.UNAUTHENTICATED, "No API key was sent."),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(method)(b"", metadata=metadata, timeout=SECONDS)
            assert caught.value.code() is code
            assert words in caught.value.details()


def test_raw_headers(server: Server, front: StartFront) -> None:
    """It works the same with encode_raw_headers, and a key sent twice is no key."""
    envoy = front(ext_authz_filter(encode_raw_headers=True), routes=[route()])
    key_id, key = server.key("once")
    assert envoy.get(x_api_key=key).upstream_headers["x-ratelimit-key-id"] == key_id
    assert envoy.get(x_api_key=b"\xff").status == 401
