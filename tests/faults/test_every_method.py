"""Whatever the method and the transport, a caller who waits less than the store needs has its answer in time."""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from api.envoy.wire import AUTHORIZE, SHOULD_RATE_LIMIT, descriptor
from faults.broken_store import BrokenStore, broken_store
from fixtures.served import Serve, Server
from ratelimit_service._gen.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub

DELAY = 3.0
DEADLINE = 1.0
"""In seconds, like DELAY: long, since the machine may be busy."""

PLAN = {
    "name": "closed",
    "on_store_failure": "DENY",
    "limits": [{"name": "wide", "quota": {"amount": 1_000_000, "window": "DAY"}}],
}


class Target(NamedTuple):
    """A server, its store, and a key whose plan denies what is decided without it."""

    server: Server
    store: BrokenStore
    api_key: str


@pytest.fixture(scope="module", params=["grpcio", "envoy"])
def target(request: pytest.FixtureRequest, serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """On each transport. No breaker opens while a test lasts."""
    with broken_store(tmp_path_factory.mktemp("store")) as store:
        server = serve(request.param, redis_url=store.proxy.url, store_timeout=5.0, store_slow=5.0)
        server.manage().ManagePlan(admin_pb2.ManagePlanRequest(create={"plan": PLAN}), metadata=server.as_admin)
        _, api_key = server.key("closed")
        yield Target(server, store, api_key)
        server.close()


def check_limit(target: Target) -> bool:
    """Whether CheckLimit allows a call."""
    request = pb2.CheckLimitRequest(api_key=target.api_key, resource="orders")
    return RateLimitServiceStub(target.server.channel).CheckLimit(request, timeout=DEADLINE).allowed


def batch(target: Target) -> bool:
    """Whether a batch allows two calls."""
    check = pb2.CheckLimitRequest(api_key=target.api_key, resource="orders")
    request = pb2.BatchCheckLimitRequest(checks=[check, check])
    results = RateLimitServiceStub(target.server.channel).BatchCheckLimit(request, timeout=DEADLINE).results
    return all(result.decision.allowed for result in results)


def stream(target: Target) -> bool:
    """Whether a stream allows a call."""
    check = pb2.CheckLimitRequest(api_key=target.api_key, resource="orders")
    requests = iter([pb2.StreamCheckLimitRequest(check=check)])
    (response,) = RateLimitServiceStub(target.server.channel).StreamCheckLimit(requests, timeout=DEADLINE)
    return response.result.decision.allowed


def should_rate_limit(target: Target) -> bool:
    """Whether Envoy's rate limit protocol allows a call."""
    request = RateLimitRequest(domain="front", descriptors=[descriptor(("api_key", target.api_key))])
    data = target.server.channel.unary_unary(SHOULD_RATE_LIMIT)(request.SerializeToString(), timeout=DEADLINE)
    return RateLimitResponse.FromString(data).overall_code == RateLimitResponse.OK


def authorize(target: Target) -> bool:
    """Whether Envoy's authorization protocol allows a call."""
    http = {"method": "GET", "path": "/orders", "headers": {"x-api-key": target.api_key}}
    data = CheckRequest(attributes={"request": {"http": http}}).SerializeToString()
    response = CheckResponse.FromString(target.server.channel.unary_unary(AUTHORIZE)(data, timeout=DEADLINE))
    return response.status.code == 0


@pytest.mark.parametrize("call", [check_limit, batch, stream, should_rate_limit, authorize])
def test_the_answer_comes_in_time(target: Target, call: Callable[[Target], bool]) -> None:
    """Before its deadline a caller gets what `on_store_failure` says, and what the store says once it is fast."""
    assert call(target)
    target.store.proxy.inject(delay=DELAY)
    began = time.monotonic()
    assert not call(target)
    assert time.monotonic() - began < DEADLINE
    target.store.proxy.heal()
    time.sleep(DELAY)  # the late reply comes
    assert call(target)
