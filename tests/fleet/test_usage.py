"""What whole servers count."""

import time

import pytest
import redis

from buckets.redis.usage import UsageReader
from fixtures.served import Serve, Server
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import BatchCheckLimitRequest, CheckLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.decision.usage import Counts, KeySeries, parse_field


def counted(server: Server, key_id: str) -> dict[tuple[str, tuple[str, ...]], Counts]:
    """What the store has of a key, by resource and limits."""
    usage = UsageReader(redis.Redis.from_url(server.settings.redis_url.get_secret_value()))
    found = {}
    for field, counts in usage.open().items():
        _, series, limits = parse_field(field)
        if isinstance(series, KeySeries) and series.key_id == key_id:
            found[series.resource, limits] = counts
    return found


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_calls_are_counted_and_the_last_ones_before_an_end_too(serve: Serve, transport: str) -> None:
    """The script counts what it decides; a server that ends hands over what only it has counted."""
    server = serve(transport)
    key_id, api_key = server.key("once")
    revoked_id, revoked = server.key("wide")
    request = admin_pb2.ManageKeyRequest(revoke={"key_id": revoked_id})
    server.manage().ManageKey(request, metadata=server.as_admin)
    stub = RateLimitServiceStub(server.channel)
    while stub.CheckLimit(CheckLimitRequest(api_key=revoked, cost=0)).allowed:
        time.sleep(0.05)
    while time.time() % 60 > 45:  # one minute has all of it
        time.sleep(0.5)
    for _ in range(3):
        stub.CheckLimit(CheckLimitRequest(api_key=api_key, resource="orders", cost=20), timeout=5)
    checks = [CheckLimitRequest(api_key=api_key, resource="orders", cost=20), CheckLimitRequest(api_key=revoked)] * 5
    stub.BatchCheckLimit(BatchCheckLimitRequest(checks=checks), timeout=5)
    ((_, limits),) = counted(server, key_id)
    expected = {("orders", limits): Counts(1, 20, 7, limits=((7, 0),))}
    until = time.monotonic() + 5
    while counted(server, key_id) != expected and time.monotonic() < until:
        time.sleep(0.1)  # denials from memory are handed over once a second
    assert counted(server, key_id) == expected
    server.close_channel()
    assert server.stop() == 0
    assert counted(server, revoked_id) == {("", ("KEY_REVOKED",)): Counts(denied=5, limits=((5, 0),))}
