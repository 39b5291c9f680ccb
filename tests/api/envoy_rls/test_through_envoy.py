"""The rate limit service behind a real Envoy, in front of a real upstream."""

import time

from api.conftest import StartFront
from api.envoy.front import (
    TYPES,
    FrontEnvoy,
    Reply,
    from_headers,
    generic,
    limited_route,
    rate_limit_filter,
    route,
    with_token,
)
from api.envoy.upstream import Upstream
from api.envoy.wire import bucket, put_rules, quota
from fixtures.served import Server
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service.management.tokens import Role

KEYED = from_headers(api_key="x-api-key")
LIMIT_HEADERS = {"ratelimit", "ratelimit-policy", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}


def statuses(replies: list[Reply]) -> dict[int, int]:
    """How many replies have which status."""
    found = [reply.status for reply in replies]
    return {status: found.count(status) for status in set(found)}


def remaining(reply: Reply) -> int:
    """What the first limit in the headers has left."""
    return int(reply.headers["ratelimit"].partition(";r=")[2].partition(";")[0])


def by_key(front: StartFront) -> FrontEnvoy:
    """An Envoy that limits by the API key in a header."""
    return front(rate_limit_filter(), routes=[route(KEYED)])


def test_a_burst_on_plan_free(server: Server, front: StartFront) -> None:
    """Of 25 requests at once 20 pass, and one more for every tenth of a second that they took."""
    envoy = by_key(front)
    _, key = server.key("free")
    began = time.monotonic()
    found = statuses(envoy.burst(25, x_api_key=key))
    refilled = int((time.monotonic() - began) * 10)
    assert set(found) <= {200, 429}
    assert 20 <= found[200] <= 20 + refilled


def test_exactly_what_there_is(server: Server, front: StartFront, upstream: Upstream) -> None:
    """Without a refill exactly 20 of 25 requests pass, and no denied one reaches the upstream."""
    envoy = by_key(front)
    _, key = server.key("once")
    before = upstream.served
    assert statuses(envoy.burst(25, x_api_key=key)) == {200: 20, 429: 5}
    assert upstream.served - before == 20


def test_a_revoked_key(server: Server, front: StartFront) -> None:
    """A key that was valid is denied at most a second after it was revoked."""
    envoy = by_key(front)
    key_id, key = server.key("wide")
    assert envoy.get(x_api_key=key).status == 200
    server.manage().ManageKey(admin_pb2.ManageKeyRequest(revoke={"key_id": key_id}), metadata=server.as_admin)
    revoked = time.monotonic()
    while (reply := envoy.get(x_api_key=key)).status == 200:
        assert time.monotonic() - revoked < 1
    assert reply.status == 429
    assert reply.json["reason"] == "KEY_REVOKED"


def test_headers_and_body(server: Server, front: StartFront) -> None:
    """The client gets its limits on 200 and on 429; on the latter Retry-After, the problem and its content type."""
    envoy = by_key(front)
    _, key = server.key("once")
    replies = [envoy.get(x_api_key=key) for _ in range(21)]
    passed, denied = replies[0], replies[-1]
    assert (passed.status, denied.status) == (200, 429)
    assert passed.headers.keys() >= LIMIT_HEADERS
    assert denied.headers.keys() >= LIMIT_HEADERS
    assert "retry-after" not in passed.headers
    assert denied.headers["ratelimit"] == f'"burst";r=0;t={denied.headers["retry-after"]}'
    assert denied.headers["content-type"] == "application/problem+json"
    assert (denied.json["reason"], denied.json["status"]) == ("OVER_LIMIT", 429)
    assert passed.headers["content-type"] == "application/json"


def test_envoys_own_headers(server: Server, front: StartFront) -> None:
    """Envoy makes its headers of the statuses: the fewest left, and every limit with its window and name."""
    domain = put_rules(
        server,
        {"key": "a", "limits": [quota(5, name="five a day")]},
        {"key": "b", "limits": [bucket(60, 60, 60, name="sixty")]},
    )
    envoy = front(
        rate_limit_filter(domain, enable_x_ratelimit_headers="DRAFT_VERSION_03"),
        routes=[route(generic(a="1"), generic(b="1"))],
    )
    headers = envoy.get().headers
    assert '5, 5;w=86400;name="five a day", 60;w=60;name="sixty"' in headers["x-ratelimit-limit"]
    assert headers["x-ratelimit-remaining"].endswith("4")


def test_hits_of_the_request(server: Server, front: StartFront) -> None:
    """The number that Envoy takes from its filter state is what a request costs."""
    hits = {
        "name": "set_filter_state",
        "typed_config": {
            "@type": f"{TYPES}.filters.http.set_filter_state.v3.Config",
            "on_request_headers": [
                {
                    "object_key": "envoy.ratelimit.hits_addend",
                    "format_string": {"text_format_source": {"inline_string": "7"}},
                }
            ],
        },
    }
    envoy = front(hits, rate_limit_filter(), routes=[route(KEYED)])
    _, key = server.key("once")
    assert remaining(envoy.get(x_api_key=key)) == 13


def test_hits_of_a_descriptor(server: Server, front: StartFront) -> None:
    """A route's own hits win: a number, one from the request, 0 that peeks, and negative ones that refund.

    The last need a token of role gateway.
    """
    hits = {
        "/big": {"number": 18},
        "/cost": {"format": "%REQ(x-cost)%"},
        "/peek": {"number": 0},
        "/refund": {"number": 3, "is_negative_hits": True},
    }
    routes = [limited_route({**KEYED, "hits_addend": addend}, prefix=prefix) for prefix, addend in hits.items()]
    limits = with_token(rate_limit_filter(), server.tokens[Role.GATEWAY])
    envoy = front(limits, routes=[*routes, route(KEYED)])
    _, key = server.key("once")
    assert remaining(envoy.get("/big", x_api_key=key)) == 2
    assert remaining(envoy.get("/cost", x_api_key=key, x_cost="2")) == 0
    assert envoy.get(x_api_key=key).status == 429
    assert envoy.get("/peek", x_api_key=key).status == 200
    refunded = envoy.get("/refund", x_api_key=key)
    assert (refunded.status, remaining(refunded)) == (200, 3)
    assert statuses([envoy.get(x_api_key=key) for _ in range(4)]) == {200: 3, 429: 1}


def test_one_denied_descriptor_charges_no_other(server: Server, front: StartFront) -> None:
    """Requests that one descriptor denies leave the other as it was."""
    domain = put_rules(server, {"key": "a", "limits": [quota(9)]}, {"key": "b", "limits": [quota(1)]})
    envoy = front(
        rate_limit_filter(domain), routes=[route(generic(a="1"), prefix="/a"), route(generic(a="1"), generic(b="1"))]
    )
    assert statuses([envoy.get() for _ in range(4)]) == {200: 1, 429: 3}
    assert remaining(envoy.get("/a")) == 7


def test_rules(server: Server, front: StartFront) -> None:
    """Nothing that matches and unlimited pass without headers, blocked never passes, wildcards count each value."""
    domain = put_rules(
        server,
        {"key": "tenant", "value": "vip", "limits": [{"unlimited": {}}]},
        {"key": "tenant", "value": "spam", "limits": [{"blocked": {}}]},
        {"key": "tenant", "limits": [quota(1)]},
    )
    envoy = front(rate_limit_filter(domain), routes=[route(from_headers(tenant="x-tenant"))])
    for _ in range(3):
        reply = envoy.get(x_tenant="vip")
        assert reply.status == 200
        assert not LIMIT_HEADERS & reply.headers.keys()
        assert envoy.get().status == 200
        assert envoy.get(x_tenant="spam").status == 429
    for tenant in ("a", "b"):
        assert [envoy.get(x_tenant=tenant).status for _ in range(2)] == [200, 429]


def test_the_requests_own_limit(server: Server, front: StartFront) -> None:
    """A limit that Envoy takes from its metadata is the one that applies, if Envoy has a token of role gateway."""
    metadata = {
        "name": "set_metadata",
        "typed_config": {
            "@type": f"{TYPES}.filters.http.set_metadata.v3.Config",
            "metadata": [{"metadata_namespace": "limits", "value": {"own": {"requests_per_unit": 3, "unit": "DAY"}}}],
        },
    }
    own = {"dynamic_metadata": {"metadata_key": {"key": "limits", "path": [{"key": "own"}]}}}
    limits = with_token(rate_limit_filter(f"own-{time.time_ns()}"), server.tokens[Role.GATEWAY])
    envoy = front(metadata, limits, routes=[route({**generic(a="1"), "limit": own})])
    replies = [envoy.get() for _ in range(4)]
    assert [reply.status for reply in replies] == [200, 200, 200, 429]
    assert replies[0].headers["ratelimit-policy"] == '"day";q=3;w=86400'


def test_values_that_are_not_utf8(server: Server, front: StartFront) -> None:
    """A client cannot escape its limit by bytes that are not UTF-8, though Envoy would let it pass on an error."""
    domain = put_rules(server, {"key": "tenant", "limits": [quota(1)]})
    envoy = front(rate_limit_filter(domain), routes=[route(from_headers(tenant="x-tenant"))])
    assert [envoy.get(x_tenant=b"\xff\xfe").status for _ in range(2)] == [200, 429]


def test_a_long_path(server: Server, front: StartFront) -> None:
    """A path of thousands of bytes is limited like any other."""
    envoy = front(rate_limit_filter(), routes=[route(from_headers(api_key="x-api-key", resource=":path"))])
    _, key = server.key("once")
    replies = [envoy.get("/" + "long" * 2_000 + str(n), x_api_key=key) for n in range(21)]
    assert statuses(replies) == {200: 20, 429: 1}


def test_routes_without_an_upstream(server: Server, front: StartFront) -> None:
    """What Envoy responds by itself is never limited: the filter acts only where there is an upstream."""
    domain = put_rules(server, {"key": "a", "limits": [{"blocked": {}}]})
    direct = {"match": {"prefix": "/direct"}, "direct_response": {"status": 200}}
    envoy = front(rate_limit_filter(domain), routes=[direct, route(generic(a="1"))])
    assert envoy.get("/direct").status == 200
    assert envoy.get().status == 429
