"""Requests that are too large or malformed, through an Envoy that lets requests pass on errors of the service."""

from collections.abc import Callable
from typing import Any

import pytest

from api.conftest import StartFront
from api.envoy.front import (
    FrontEnvoy,
    Json,
    Reply,
    ext_authz_filter,
    from_headers,
    front_config,
    generic,
    limited_route,
    rate_limit_filter,
    route,
)
from api.envoy.upstream import Upstream
from api.envoy.wire import put_rules, quota
from fixtures.served import Server

HEADERS_KIB = 240


def with_large_headers(config: Json) -> Json:
    """The configuration, with clients allowed to send headers of 240 KiB and 2,000 of them."""
    (listener,) = config["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["max_request_headers_kb"] = HEADERS_KIB
    manager["common_http_protocol_options"] = {"max_headers_count": 2_000}
    return config


@pytest.fixture
def open_front(
    server: Server, upstream: Upstream, start_front: Callable[[Json], FrontEnvoy]
) -> Callable[..., FrontEnvoy]:
    """Start an Envoy with this filter and these routes that accepts large headers."""

    def start(http_filter: Json, *routes: Json) -> FrontEnvoy:
        config = front_config(server.address, upstream.port, http_filter, routes=list(routes))
        return start_front(with_large_headers(config))

    return start


def denied(reply: Reply) -> tuple[int, str]:
    """The status of a denial, and its reason."""
    return reply.status, reply.json.get("reason", "")


RLS_DENIED = (429, "REQUEST_OUT_OF_BOUNDS")


def test_rls(server: Server, open_front: Callable[..., FrontEnvoy], upstream: Upstream) -> None:
    """None of them passes the rate limit filter, which fails open as by default; a request within bounds does."""
    domain = put_rules(server, {"key": "a", "limits": [quota(1_000)]})
    many = {f"k{number}": "v" for number in range(17)}
    by_header = from_headers(a="x-a")
    cost = {"hits_addend": {"format": "%REQ(x-cost)%"}}
    envoy = open_front(
        rate_limit_filter(domain),
        route(generic(**many), prefix="/entries"),
        route(*[generic(a="1")] * 129, prefix="/descriptors"),
        route(*[generic(a="1")] * 128, prefix="/most"),
        route(generic(api_key="x", other="y"), prefix="/beside"),
        route(generic(**{"k" * 257: "v"}), prefix="/key"),
        limited_route({**by_header, **cost}, prefix="/cost"),
        route(by_header),
    )
    assert envoy.get(x_a="1").status == 200
    assert envoy.get("/most").status == 200
    before = upstream.served
    for path in ("/entries", "/descriptors", "/beside", "/key"):
        assert denied(envoy.get(path)) == RLS_DENIED, path
    for size in (66_000, 100_000, 200_000):
        assert denied(envoy.get(x_a="1" * size)) == RLS_DENIED, size
    assert upstream.served == before


def test_hits_of_a_client(server: Server, open_front: Callable[..., FrontEnvoy], upstream: Upstream) -> None:
    """A route that takes its cost from a header lets no number pass that is beyond the limit.

    Above 1,000,000,000 Envoy sends no descriptor at all, so there is nothing to deny: docs/envoy says so.
    """
    domain = put_rules(server, {"key": "a", "limits": [quota(1_000)]})
    descriptor = {**from_headers(a="x-a"), "hits_addend": {"format": "%REQ(x-cost)%"}}
    envoy = open_front(rate_limit_filter(domain), limited_route(descriptor, prefix="/"))
    before = upstream.served
    for cost in (1_001, 1_000_001, 2**29, 10**9):
        reply = envoy.get(x_a="1", x_cost=str(cost))
        assert reply.status == 429, cost
    assert upstream.served == before


def test_draft_headers_without_statuses(server: Server, open_front: Callable[..., FrontEnvoy]) -> None:
    """A denial without statuses is one, also where Envoy makes headers of them."""
    domain = put_rules(server, {"key": "a", "limits": [quota(1_000)]})
    limits = rate_limit_filter(domain, enable_x_ratelimit_headers="DRAFT_VERSION_03")
    envoy = open_front(limits, route(from_headers(a="x-a")))
    assert denied(envoy.get(x_a="1" * 66_000)) == RLS_DENIED


@pytest.mark.parametrize("raw", [False, True])
def test_ext_authz(raw: bool, server: Server, open_front: Callable[..., FrontEnvoy], upstream: Upstream) -> None:
    """None of them passes the authorization filter that allows on errors, with a key or without."""
    options: dict[str, Any] = {"failure_mode_allow": True, "encode_raw_headers": raw}
    envoy = open_front(ext_authz_filter(**options), route())
    _, key = server.key("wide")
    assert envoy.get(x_api_key=key).status == 200
    before = upstream.served
    for headers in ({"x_large": "1" * 66_000}, {"x_large": "1" * 200_000}, {f"x_{n}": "" for n in range(300)}):
        for credential in ({"x_api_key": key}, {}):
            reply = envoy.get(**credential, **headers)
            assert denied(reply) == (413, "REQUEST_OUT_OF_BOUNDS"), list(headers)
    assert denied(envoy.get("/" + "x" * 70_000, x_api_key=key)) == (413, "REQUEST_OUT_OF_BOUNDS")
    assert upstream.served == before


def test_a_front_within_bounds(server: Server, front: StartFront) -> None:
    """A long path is not too large for the authorization, nor are headers; Envoy sends the path twice."""
    _, key = server.key("wide")
    envoy = front(ext_authz_filter(), routes=[route()])
    assert envoy.get("/" + "%41" * 9_900, x_api_key=key).status == 200
    assert envoy.get("/", x_api_key=key, x_large="x" * 55_000).status == 200
