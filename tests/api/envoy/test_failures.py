"""What happens to requests when the store, or the service itself, is unavailable."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import grpc
import psutil
import pytest

from api.conftest import TRANSPORTS
from api.envoy.front import (
    FrontEnvoy,
    Json,
    authorized_route,
    ext_authz_filter,
    from_headers,
    front_config,
    generic,
    rate_limit_filter,
    route,
)
from api.envoy.upstream import Upstream
from api.envoy.wire import OK, OVER_LIMIT, Refused, ask, authorize, descriptor, put_rules, quota
from fixtures.served import Serve, Server, free_address
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service.devstores.valkey import EmbeddedValkey

A = ("a", "1")
MODES = ("FAIL", "LOCAL", "ALLOW", "DENY")
BLOCKED = {"key": "a", "limits": [quota(100)]}


@dataclass
class Storeless:
    """A server that has lost its Valkey: a domain for each failure mode of rules, a key for each of plans."""

    server: Server
    domains: dict[str, str]
    keys: dict[str, str]


@pytest.fixture(scope="module", params=TRANSPORTS)
def storeless(
    request: pytest.FixtureRequest, serve: Serve, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Storeless]:
    """A server behind each transport in turn, that has lost its Valkey."""
    store = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    store.start()
    server = serve(request.param, redis_url=store.url)
    domains = {mode: put_rules(server, BLOCKED, on_store_failure=mode) for mode in MODES}
    keys = {}
    for mode in MODES[1:]:
        plan = {
            "name": mode.lower(),
            "on_store_failure": mode,
            "limits": [{"name": "day", "quota": {"amount": 100, "window": "DAY"}}],
        }
        server.manage().ManagePlan(admin_pb2.ManagePlanRequest(create={"plan": plan}), metadata=server.as_admin)
        _, keys[mode] = server.key(mode.lower())
    store.stop()
    yield Storeless(server, domains, keys)
    server.close()


def test_rules_on_the_wire(storeless: Storeless) -> None:
    """UNAVAILABLE where the rules have FAIL; else the rule's own mode decides, and a denial has the reason."""
    with pytest.raises(Refused) as caught:
        ask(storeless.server, descriptor(A), domain=storeless.domains["FAIL"])
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert caught.value.reason == "BUCKET_STORE_UNAVAILABLE"
    for mode, code in (("LOCAL", OK), ("ALLOW", OK), ("DENY", OVER_LIMIT)):
        response = ask(storeless.server, descriptor(A), domain=storeless.domains[mode])
        assert (response.overall_code, response.statuses[0].code) == (code, code)
    assert b"DEGRADED_DENIED" in response.raw_body


def test_keys_on_the_wire(storeless: Storeless) -> None:
    """A key's plan decides, for both protocols alike; a denial because the store is down is a 503."""
    for mode, code, status in (("LOCAL", OK, 0), ("ALLOW", OK, 0), ("DENY", OVER_LIMIT, 14)):
        key = storeless.keys[mode]
        assert ask(storeless.server, descriptor(("api_key", key))).overall_code == code
        assert authorize(storeless.server, x_api_key=key).status.code == status
    assert authorize(storeless.server, x_api_key=storeless.keys["DENY"]).denied_response.status.code == 503


def test_rules_through_envoy(
    storeless: Storeless, upstream: Upstream, start_front: Callable[[Json], FrontEnvoy]
) -> None:
    """failure_mode_deny decides where the rules have FAIL, and only there."""
    for deny, expected in ((False, (200, 200, 200, 429)), (True, (500, 200, 200, 429))):
        for mode, status in zip(MODES, expected, strict=True):
            limits = rate_limit_filter(storeless.domains[mode], failure_mode_deny=deny)
            config = front_config(storeless.server.address, upstream.port, limits, routes=[route(generic(a="1"))])
            assert start_front(config).get().status == status, (deny, mode)


def test_keys_through_envoy(
    storeless: Storeless, upstream: Upstream, start_front: Callable[[Json], FrontEnvoy]
) -> None:
    """A request that is allowed because the store is down still identifies the caller to the upstream."""
    config = front_config(storeless.server.address, upstream.port, ext_authz_filter(), routes=[route()])
    envoy = start_front(config)
    for mode in ("LOCAL", "ALLOW"):
        reply = envoy.get(x_api_key=storeless.keys[mode])
        assert reply.status == 200
        assert reply.upstream_headers["x-ratelimit-plan"] == mode.lower()
    denied = envoy.get(x_api_key=storeless.keys["DENY"])
    assert (denied.status, denied.json["reason"]) == (503, "DEGRADED_DENIED")


def test_an_unavailable_service(upstream: Upstream, start_front: Callable[[Json], FrontEnvoy]) -> None:
    """Envoy's own defaults: the rate limit filter fails open, the authorization filter closed; both can be turned."""
    closed = free_address()
    limited = route(from_headers(api_key="x-api-key"))
    for http_filter, status in (
        (rate_limit_filter(), 200),
        (rate_limit_filter(failure_mode_deny=True), 500),
        (ext_authz_filter(), 403),
        (ext_authz_filter(failure_mode_allow=True), 200),
    ):
        envoy = start_front(front_config(closed, upstream.port, http_filter, routes=[limited]))
        assert envoy.get(x_api_key="any").status == status


def test_a_malformed_route(server: Server, upstream: Upstream, start_front: Callable[[Json], FrontEnvoy]) -> None:
    """A malformed route denies with 500, as a bad key with 401: failure_mode_allow would allow a gRPC error."""
    http_filter = ext_authz_filter(failure_mode_allow=True)
    routes = [authorized_route("/wrong", cost="much"), route()]
    envoy = start_front(front_config(server.address, upstream.port, http_filter, routes=routes))
    wrong = envoy.get("/wrong", x_api_key="garbage")
    assert (wrong.status, wrong.json["reason"]) == (500, "ROUTE_MISCONFIGURED")
    assert envoy.get(x_api_key="garbage").status == 401


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_service_that_hangs(
    transport: str, serve: Serve, upstream: Upstream, start_front: Callable[[Json], FrontEnvoy]
) -> None:
    """With Envoy's own timeouts, 20 ms and 200 ms, a service that hangs is not waited for longer."""
    server = serve(transport)
    _, key = server.key("once")
    fronts = []
    for http_filter in (rate_limit_filter(), ext_authz_filter()):
        typed = http_filter["typed_config"]
        typed.pop("timeout", None)
        typed.get("grpc_service", {}).pop("timeout", None)
        routes = [route(from_headers(api_key="x-api-key"))]
        fronts.append(start_front(front_config(server.address, upstream.port, http_filter, routes=routes)))
    for envoy in fronts:
        envoy.get(x_api_key=key)  # the connection is there
    frozen = server.workers()
    for worker in frozen:
        worker.suspend()
    try:
        for envoy, status in zip(fronts, (200, 403), strict=True):
            began = time.monotonic()
            assert envoy.get(x_api_key=key).status == status
            assert time.monotonic() - began < 2
    finally:
        for worker in frozen:
            with suppress(psutil.NoSuchProcess):  # it was replaced
                worker.resume()
    server.close()


@pytest.fixture(scope="module")
def renewing(serve: Serve) -> Callable[[str], Server]:
    """The server of a transport that renews connections each second, for the tests up to that which ends it."""
    return cache(lambda transport: serve(transport, workers=2, max_connection_age=1))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_connections_have_an_age(
    transport: str,
    renewing: Callable[[str], Server],
    upstream: Upstream,
    start_front: Callable[[Json], FrontEnvoy],
) -> None:
    """Envoy's connections to the service are renewed, so that calls spread again, and no call fails on the way."""
    server = renewing(transport)
    _, key = server.key("wide")
    limits = rate_limit_filter(failure_mode_deny=True)
    routes = [route(from_headers(api_key="x-api-key"))]
    envoy = start_front(front_config(server.address, upstream.port, limits, routes=routes))
    deadline = time.monotonic() + 20
    while envoy.statistic("cluster.ratelimit.upstream_cx_total") < 3:
        assert time.monotonic() < deadline, "the connection is never renewed"
        assert envoy.get(x_api_key=key).status == 200


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_rolling_restart(
    transport: str,
    renewing: Callable[[str], Server],
    upstream: Upstream,
    start_front: Callable[[Json], FrontEnvoy],
) -> None:
    """While workers are replaced one by one no request through Envoy fails, though it is set to deny on failure."""
    server = renewing(transport)
    _, key = server.key("wide")
    limits = rate_limit_filter(failure_mode_deny=True)
    routes = [route(from_headers(api_key="x-api-key"))]
    envoy = start_front(front_config(server.address, upstream.port, limits, routes=routes))
    before = {worker.pid for worker in server.workers()}
    server.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 60
    while before & {worker.pid for worker in server.workers()}:
        assert time.monotonic() < deadline, "the workers are not replaced"
        assert envoy.get(x_api_key=key).status == 200
        time.sleep(0.02)  # what is started has the processor
    server.close()
