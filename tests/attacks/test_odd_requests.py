"""Whoever is over the limit stays out, however odd a request: a real Envoy that fails open lets none pass."""

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, ResponseReceived, StreamReset, TrailersReceived

from api.envoy.front import TYPES, FrontEnvoy, Json, ext_authz_filter, front_config, rate_limit_filter
from api.envoy.upstream import Upstream
from api.envoy.wire import OK, OVER_LIMIT, ask, authorize, bucket, descriptor, put_rules
from attacks.odd import SENT_HITS, STREAMS, Odd, odd_requests
from fixtures.served import Serve, Server
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2

KINDS: Final = 200
SECONDS: Final = 20.0
PASSED: Final = "x-envoy-upstream-service-time"
"""The header that Envoy puts into what comes from the upstream."""

REFUSED: Final = {401, 413, 429}
"""What the service answers by: no such key, too large, over the limit."""

BY_ENVOY: Final = {400, 403, 404, 405, 408, 413, 414, 417, 426, 431, 501, 505, 0}
"""What Envoy answers to requests that it takes for invalid; 0: it closed the connection."""


class Response(NamedTuple):
    """What the client saw. A status of 0: nothing but the end of the connection."""

    status: int
    passed: bool


@pytest.fixture(scope="module", params=["envoy", "grpcio"])
def server(request: pytest.FixtureRequest, serve: Serve) -> Iterator[Server]:
    """A server behind each transport."""
    server = serve(request.param)
    yield server
    server.close()


@pytest.fixture(scope="module")
def spent(server: Server) -> str:
    """A key whose one call of the year has been made."""
    plan = {"name": "spent", "limits": [{"name": "year", "quota": {"amount": 1, "window": "YEAR"}}]}
    server.manage().ManagePlan(admin_pb2.ManagePlanRequest(create={"plan": plan}), metadata=server.as_admin)
    _, key = server.key("spent")
    assert authorize(server, x_api_key=key).status.code == 0
    assert authorize(server, x_api_key=key).status.code != 0
    return key


@pytest.fixture(scope="module")
def domain(server: Server) -> str:
    """A domain in which every address has spent its one call, by itself and together with anything."""
    limit = {"limits": [bucket(1, 1)]}
    odd = {"key": "odd", "value": "*", "share_threshold": True, **limit}
    domain = put_rules(server, {"key": "remote_address", "descriptors": [odd], **limit})
    for descriptors in ([("remote_address", "127.0.0.1")], [("remote_address", "127.0.0.1"), ("odd", "a")]):
        assert ask(server, descriptor(*descriptors), domain=domain).overall_code == OK
        assert ask(server, descriptor(*descriptors), domain=domain).overall_code == OVER_LIMIT
    return domain


ADDRESS: Final[Json] = {"remote_address": {}}


def header(name: str, key: str = "odd") -> Json:
    """An entry with a header's value."""
    return {"request_headers": {"descriptor_key": key, "header_name": name}}


def fixed(key: str, value: str = "a") -> Json:
    """An entry that is always the same."""
    return {"generic_key": {"descriptor_key": key, "descriptor_value": value}}


def expression(text: str) -> Json:
    """An entry that a CEL expression computes of the request."""
    config = {
        "@type": f"{TYPES}.rate_limit_descriptors.expr.v3.Descriptor",
        "descriptor_key": "odd",
        "text": text,
    }
    return {"extension": {"name": "envoy.rate_limit_descriptors.expr", "typed_config": config}}


def query(name: str) -> Json:
    """An entry with the value of a query parameter."""
    return {"query_parameters": {"descriptor_key": "odd", "query_parameter_name": name}}


def limits(*descriptors: list[Json], **fields: object) -> list[Json]:
    """The `rate_limits` of a route."""
    return [{"actions": actions, **fields} for actions in descriptors]


HITS: Final = {"hits_addend": {"format": "%REQ(x-hits)%"}}

BROAD: Final = [
    *limits([ADDRESS], [header("x-api-key", "api_key")], [header("x-api-key", "api_key"), header(":path", "resource")]),
    *limits([ADDRESS, header(":path")], [ADDRESS, header(":method")], [ADDRESS, header("x-odd")]),
    *limits([header(":path")], [header("x-odd")], [header(":authority"), header(":method")], [query("q")]),
    *limits([header("content-type")], [{"masked_remote_address": {}}], [{"destination_cluster": {}}]),
    *limits([expression("request.url_path")], [expression("request.query")], [expression("request.useragent")]),
    *limits([ADDRESS, header("x-hits")], **HITS),
]
"""Nearly all that a client can choose, beside descriptors over their limit."""

NARROW: Final = {
    "path": limits([ADDRESS, header(":path")]),
    "value": limits([ADDRESS, header("x-odd")], [ADDRESS]),
    "hits": limits([ADDRESS], **HITS),
    "hits of a key": limits([header("x-api-key", "api_key")], **HITS),
    "resource": limits([header("x-api-key", "api_key"), header(":path", "resource")]),
}
"""Routes on which nothing else would deny."""

ROUTES: Final = {
    **{f"{count} entries": limits([ADDRESS], [fixed(f"k{n}") for n in range(count)]) for count in (16, 17, 18, 100)},
    **{f"{count} descriptors": limits([ADDRESS], *([fixed(f"k{n}")] for n in range(count - 1))) for count in (32, 33)},
    "90 descriptors": limits(*([fixed(f"k{n}")] for n in range(90)), [ADDRESS]),
    "127 descriptors": limits(*([fixed(f"k{n}")] for n in range(126)), [ADDRESS]),
    "128 descriptors": limits(*([fixed(f"k{n}")] for n in range(127)), [ADDRESS]),
    "129 descriptors": limits(*([fixed(f"k{n}")] for n in range(128)), [ADDRESS]),
    "1,000 descriptors": limits(*([fixed(f"k{n}")] for n in range(999)), [ADDRESS]),
    "a key of 256": limits([ADDRESS], [fixed("k" * 256)]),
    "a key of 257": limits([ADDRESS], [fixed("k" * 257)]),
    "a key of 10,000": limits([ADDRESS], [fixed("k" * 10_000)]),
    "a key of symbols": limits([ADDRESS], [fixed("\u202e\u200b")]),
    "a blank key": limits([ADDRESS], [fixed(" ")]),
    "a value of 70,000": limits([ADDRESS], [fixed("k", "v" * 70_000)]),
    "a value of 2,000,000": limits([ADDRESS], [fixed("k", "v" * 2_000_000)]),
    "two values of 600,000": limits([ADDRESS], [fixed("k", "v" * 600_000)], [fixed("l", "v" * 600_000)]),
    "a key beside another entry": limits([ADDRESS], [header("x-api-key", "api_key"), fixed("other")]),
    "a key alone beside another entry": limits([header("x-api-key", "api_key"), fixed("other")]),
    "a key twice": limits([header("x-api-key", "api_key"), header("x-api-key", "api_key")]),
    "a key in 20 descriptors": limits(*[[header("x-api-key", "api_key")]] * 20),
    "an entry twice": limits([ADDRESS], [fixed("k"), fixed("k")]),
    "2,000,000 hits": limits([ADDRESS], hits_addend={"number": 2_000_000}),
    "1,000,000,000 hits": limits([ADDRESS], hits_addend={"number": 1_000_000_000}),
    "1,000,000,000 hits of a key": limits([header("x-api-key", "api_key")], hits_addend={"number": 1_000_000_000}),
    "a header that matches": limits(
        [ADDRESS],
        [{"header_value_match": {"descriptor_value": "v", "headers": [{"name": ":path", "present_match": True}]}}],
    ),
    "metadata": limits(
        [ADDRESS],
        [{"metadata": {"descriptor_key": "m", "metadata_key": {"key": "none", "path": [{"key": "a"}]}}}],
        [
            {
                "metadata": {
                    "descriptor_key": "m",
                    "metadata_key": {"key": "none", "path": [{"key": "a"}]},
                    "default_value": "v" * 300,
                }
            }
        ],
    ),
}
"""What an operator may configure, and a client may make long."""

BEYOND_GRPCIO: Final = {"a value of 2,000,000", "two values of 600,000"}

COSTS: Final = ("1", "1000000", "1000001", "9007199254")
RESOURCES: Final = ("", "r" * 256, "\u202e")
"""What an author may write into a route."""

MISTAKES: Final = (
    *({"cost": cost} for cost in ("9007199255", "-1", "", "much")),
    *({"resource": resource} for resource in ("r" * 257, "a\nb")),
)
"""What is no cost or resource."""

BODY: Final = {"max_request_bytes": 1_048_576, "allow_partial_message": True}


@pytest.fixture(scope="module")
def start(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., FrontEnvoy]]:
    """Start Envoys with one filter, in front of an upstream that nothing is to reach."""
    fronts: list[FrontEnvoy] = []
    upstream = Upstream()

    def start(http_filter: Json, routes: list[Json]) -> FrontEnvoy:
        config = front_config(server.address, upstream.port, http_filter, routes=routes)
        folder: Path = tmp_path_factory.mktemp("front")
        fronts.append(FrontEnvoy(config, folder))
        return fronts[-1]

    yield start
    for front in fronts:
        front.close()
    upstream.close()


def named(name: str, **changes: object) -> Json:
    """A route for requests that name it."""
    match = {"prefix": "/", "headers": [{"name": "x-route", "string_match": {"exact": name}}]}
    return {"match": match, "route": {"cluster": "upstream"}, **changes}


def limited(name: str, rate_limits: list[Json]) -> Json:
    """A route with these descriptors, which the filter builds."""
    config = {"@type": f"{TYPES}.filters.http.ratelimit.v3.RateLimitPerRoute", "rate_limits": rate_limits}
    return named(name, typed_per_filter_config={"envoy.filters.http.ratelimit": config})


def checked(name: str, **settings: object) -> Json:
    """A route that sends the authorization service this."""
    config = {"@type": f"{TYPES}.filters.http.ext_authz.v3.ExtAuthzPerRoute", "check_settings": settings}
    return named(name, typed_per_filter_config={"envoy.filters.http.ext_authz": config})


def on_route(odd: Odd, name: str) -> Odd:
    """The same request, for the route of this name."""
    return odd._replace(kind=f"{name}: {odd.kind}", headers=((b"x-route", name.encode()), *odd.headers))


def send(front: FrontEnvoy, odd: Odd, key: str) -> Response:
    """Send a request of HTTP/1 on a connection of its own. A status of gRPC other than 0 is 429 here."""
    with socket.create_connection(("127.0.0.1", front.port), timeout=SECONDS) as connection:
        with suppress(ConnectionError):  # it may be refused before all of it was read
            connection.sendall(odd.encode(key))
        response = HTTPResponse(connection, method=odd.method.decode("latin-1"))
        try:
            response.begin()
        except (HTTPException, ConnectionError):
            return Response(0, passed=False)
        finally:
            response.close()
        refused = response.getheader("grpc-status", "0") != "0"
        return Response(429 if refused else response.status, response.getheader(PASSED) is not None)


def send_on_stream(front: FrontEnvoy, headers: list[tuple[bytes, bytes]], body: bytes, key: str) -> Response:
    """Send a request of HTTP/2 on a connection of its own. A status of gRPC other than 0 is 429 here."""
    http2 = H2Connection(
        H2Configuration(
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
        )
    )
    http2.initiate_connection()
    found: dict[bytes, bytes] = {}
    with socket.create_connection(("127.0.0.1", front.port), timeout=SECONDS) as connection:
        filled = [(name, value.replace(b"KEY", key.encode())) for name, value in headers]
        http2.send_headers(1, filled, end_stream=not body)
        for start in range(0, len(body), 16_384):
            http2.send_data(1, body[start : start + 16_384], end_stream=start + 16_384 >= len(body))
        connection.sendall(http2.data_to_send())
        while b":status" not in found:
            data = connection.recv(65_536)
            events = http2.receive_data(data)
            for event in events:
                if isinstance(event, ResponseReceived | TrailersReceived):
                    found |= dict(event.headers)
            if not data or any(isinstance(event, ConnectionTerminated | StreamReset) for event in events):
                break
            connection.sendall(http2.data_to_send())
    status = int(found.get(b":status", b"0"))
    if found.get(b"grpc-status", b"0") != b"0":
        status = 429
    return Response(status, PASSED.encode() in found)


def pass_through(front: FrontEnvoy, requests: list[Odd], key: str) -> dict[str, int]:
    """Send all, and return the status of each that passed, or was answered with what nobody expects."""
    statuses = {odd.kind: send(front, odd, key) for odd in requests}
    assert len(statuses) == len(requests), "two of one kind"
    statuses |= {
        f"HTTP/2: {kind}": send_on_stream(front, headers, body, key) for kind, (headers, body) in STREAMS.items()
    }
    ours = sum(response.status in REFUSED for response in statuses.values())
    assert ours >= len(statuses) * 0.6, "most are refused by Envoy, so that the service is not tested"
    return {
        kind: response.status
        for kind, response in statuses.items()
        if response.passed or response.status not in REFUSED | BY_ENVOY
    }


def test_odd_requests_on_rls(start: Callable[..., FrontEnvoy], server: Server, spent: str, domain: str) -> None:
    """None of 200 kinds of odd requests passes a rate limit filter that fails open.

    Without, on the transport grpcio, the two of more than 1 MiB, to which the library itself responds with an error.
    """
    ours = [name for name in ROUTES if server.settings.transport == "envoy" or name not in BEYOND_GRPCIO]
    routes = [limited(name, rate_limits) for name, rate_limits in {**ROUTES, **NARROW}.items()]
    http_filter = rate_limit_filter(domain, failure_mode_deny=False)
    front = start(http_filter, [*routes, limited_by_default(BROAD)])
    requests = list(odd_requests())
    assert len(requests) >= KINDS
    requests += [on_route(Odd("plain"), name) for name in ours]
    for odd in list(odd_requests()):
        narrow = {"path": ["path", "resource"], "head": ["value"], "quer": ["path"]}
        requests += [on_route(odd, name) for name in narrow.get(odd.kind[:4], [])]
    for hits in SENT_HITS:
        odd = Odd(f"hits {hits}", headers=((b"x-hits", hits.encode()),))
        requests += [on_route(odd, name) for name in ("hits", "hits of a key")]
    passed = pass_through(front, requests, spent)
    assert not passed, f"{len(passed)} kinds of {len(requests)} passed: {passed}"
    assert front.statistic("cluster.upstream.upstream_rq_total") == 0


def limited_by_default(rate_limits: list[Json]) -> Json:
    """The route of all requests that name none."""
    return limited("", rate_limits) | {"match": {"prefix": "/"}}


@pytest.mark.parametrize("raw", [False, True], ids=["headers", "raw headers"])
def test_odd_requests_on_ext_authz(start: Callable[..., FrontEnvoy], server: Server, spent: str, *, raw: bool) -> None:
    """None of 200 kinds of odd requests passes an authorization filter that fails open.

    On the transport grpcio, bodies are cut off a little earlier: to more than 1 MiB the library itself responds.
    """
    body = BODY if server.settings.transport == "envoy" else {**BODY, "max_request_bytes": 1_000_000}
    routes = [checked(f"cost {n}", context_extensions={"cost": cost}) for n, cost in enumerate(COSTS)]
    routes += [checked(f"resource {n}", context_extensions={"resource": text}) for n, text in enumerate(RESOURCES)]
    routes += [
        checked("body", with_request_body=body),
        checked("bytes", with_request_body={**body, "pack_as_bytes": True}),
    ]
    names = [route["match"]["headers"][0]["string_match"]["exact"] for route in routes]
    front = start(
        ext_authz_filter(failure_mode_allow=True, encode_raw_headers=raw),
        [*routes, {"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
    )
    requests = list(odd_requests())
    assert len(requests) >= KINDS
    requests += [on_route(Odd("plain"), name) for name in names]
    requests += [on_route(odd, name) for odd in requests if "body" in odd.kind for name in ("body", "bytes")]
    passed = pass_through(front, requests, spent)
    assert not passed, f"{len(passed)} kinds of {len(requests)} passed: {passed}"
    assert front.statistic("cluster.upstream.upstream_rq_total") == 0


def test_mistakes_in_routes_on_ext_authz(start: Callable[..., FrontEnvoy], spent: str) -> None:
    """No request of a route whose author wrote a malformed cost or resource passes a filter that fails open."""
    routes = [checked(f"mistake {n}", context_extensions=mistake) for n, mistake in enumerate(MISTAKES)]
    front = start(ext_authz_filter(failure_mode_allow=True), routes)
    for number in range(len(MISTAKES)):
        response = send(front, on_route(Odd("plain"), f"mistake {number}"), spent)
        assert (response.status, response.passed) == (500, False), MISTAKES[number]
    assert front.statistic("cluster.upstream.upstream_rq_total") == 0
