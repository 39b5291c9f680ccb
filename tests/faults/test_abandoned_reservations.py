"""Calls that reserve, and leave before they get an answer: their slots are free at once, not when their holds end."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count
from typing import Final

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from api.envoy.wire import SHOULD_RATE_LIMIT, descriptor, put_rules
from faults.proxy import FaultProxy
from fixtures.served import Serve, Server
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManagePlanRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.devstores.valkey import EmbeddedValkey

CHECK: Final = "/ratelimit.v1.RateLimitService/CheckLimit"
HOLD: Final = Duration(seconds=600)
DELAY: Final = 0.3
_names = count()


class Place:
    """A server that is DELAY seconds from its store, and a domain whose calls are held."""

    def __init__(self, server: Server, proxy: FaultProxy) -> None:
        self.server = server
        self.proxy = proxy
        self.domain = put_rules(server, {"key": "a", "limits": [{"quota": {"amount": 5, "window": "YEAR"}}]}, hold=HOLD)

    def new_key(self) -> str:
        """The secret of a key with a budget and some calls at once."""
        name = f"abandoned-{next(_names)}"
        limits = [
            {"name": "tokens", "quota": {"amount": 1_000, "window": "YEAR"}},
            {"name": "at-once", "concurrency": {"max": 20, "default_hold": timedelta(seconds=600)}},
        ]
        request = ManagePlanRequest(create={"plan": {"name": name, "limits": limits}})
        self.server.manage().ManagePlan(request, metadata=self.server.as_admin)
        return self.server.key(name)[1]

    def used(self, secret: str) -> dict[str, int]:
        """What is used of each limit."""
        response = RateLimitServiceStub(self.server.channel).CheckLimit(CheckLimitRequest(api_key=secret, cost=0))
        return {limit.name: limit.limit - limit.remaining for limit in response.limits}

    def until_used(self, secret: str, **expected: int) -> None:
        """Wait until so much is used."""
        deadline = time.monotonic() + 10
        while self.used(secret) != {name.replace("_", "-"): used for name, used in expected.items()}:
            assert time.monotonic() < deadline, self.used(secret)
            time.sleep(0.05)


@pytest.fixture(scope="module", params=["envoy", "grpcio"])
def place(request: pytest.FixtureRequest, serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Each transport in turn."""
    store = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    store.start()
    with FaultProxy(store.port) as proxy:
        server = serve(request.param, redis_url=proxy.url, store_timeout=5.0, store_slow=5.0)
        yield Place(server, proxy)
        server.close()
    store.stop()


def _check(_place: Place, secret: str, request_id: str = "") -> tuple[str, bytes]:
    message = CheckLimitRequest(api_key=secret, cost=7, hold=HOLD, request_id=request_id)
    return CHECK, message.SerializeToString()


def _should_rate_limit(place: Place, secret: str) -> tuple[str, bytes]:
    one = descriptor(("api_key", secret), hits_addend={"value": 7})
    return SHOULD_RATE_LIMIT, RateLimitRequest(domain=place.domain, descriptors=[one]).SerializeToString()


def _leave(place: Place, method: str, data: bytes) -> None:
    """Call, and give up before the store has replied."""
    place.proxy.inject(delay=DELAY)
    call = place.server.channel.unary_unary(method).future(data, timeout=10)
    time.sleep(DELAY / 2)
    call.cancel()
    place.proxy.heal()


@pytest.mark.parametrize("call", [_check, _should_rate_limit])
def test_a_caller_that_leaves(place: Place, call: Callable[[Place, str], tuple[str, bytes]]) -> None:
    """Its estimate stays charged, and its slot comes back."""
    secret = place.new_key()
    place.used(secret)
    for calls in (1, 2, 3):
        _leave(place, *call(place, secret))
        place.until_used(secret, tokens=7 * calls, at_once=0)


def test_a_call_that_can_be_repeated(place: Place) -> None:
    """With a request id the same call again gets the reservation, so that it stays open."""
    secret = place.new_key()
    place.used(secret)
    _leave(place, *_check(place, secret, "order-1"))
    place.until_used(secret, tokens=7, at_once=1)
    _, data = _check(place, secret, "order-1")
    with grpc.insecure_channel(place.server.address) as channel:
        again = RateLimitServiceStub(channel).CheckLimit(CheckLimitRequest.FromString(data), timeout=10)
    assert again.allowed
    assert again.reservation_id
    place.until_used(secret, tokens=7, at_once=1)
