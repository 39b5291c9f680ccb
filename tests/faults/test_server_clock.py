"""The clock of a server steps by an hour: limits go by the clock of Redis, and only ends of keys by the server's."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp

from faults.stepped_clock import HOUR, SteppedClock
from fixtures.counted import counted
from fixtures.dev_server import free_address
from fixtures.served import Server
from fixtures.valkey import StartValkey
from operations.probe import ask
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub

CAPACITY = 20
REFILL_SECONDS = 2
FOLLOWS_SECONDS = 10
"""Within which a change is in force: the bar is 1 s, on a machine of its own."""


def check(server: Server, api_key: str) -> CheckLimitResponse:
    """One call."""
    return RateLimitServiceStub(server.channel).CheckLimit(CheckLimitRequest(api_key=api_key), timeout=5)


def call_for(server: Server, api_key: str, seconds: float) -> Counter[bool]:
    """How many calls were allowed and denied, all of them by the store."""
    results: Counter[bool] = Counter()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        response = check(server, api_key)
        assert response.source != CheckLimitResponse.DEGRADED
        results[response.allowed] += 1
    return results


def revoked_after(server: Server, key_id: str, api_key: str) -> float:
    """Seconds until a key that is revoked now is refused."""
    request = admin_pb2.ManageKeyRequest(revoke={"key_id": key_id})
    server.manage().ManageKey(request, metadata=server.as_admin, timeout=5)
    began = time.monotonic()
    while check(server, api_key).reason != CheckLimitResponse.KEY_REVOKED:
        assert time.monotonic() < began + FOLLOWS_SECONDS
        time.sleep(0.02)
    return time.monotonic() - began


def test_a_step_of_an_hour(own_server: Callable[..., Server], valkey: StartValkey, tmp_path: Path) -> None:
    """Ahead and back: no limit is lifted, waits are true, changes follow, and usage is exact."""
    clock, address = SteppedClock(tmp_path / "offset"), free_address()
    server = own_server(  # Envoy preloads a library of its own in place of the one that steps the clock
        "grpcio",
        redis_url=valkey().url,
        variables=clock.variables(),
        operations_listen=address,
        workers=1,
        store_timeout=1.0,  # others use the cores
    )
    bucket = {"capacity": CAPACITY, "refill_tokens": CAPACITY, "refill_period": {"seconds": REFILL_SECONDS}}
    limits = [{"name": "bucket", "token_bucket": bucket}]
    plan = {"name": "refilled", "limits": limits, "on_store_failure": "ALLOW"}
    server.manage().ManagePlan(admin_pb2.ManagePlanRequest(create={"plan": plan}), metadata=server.as_admin)
    key_id, api_key = server.key("refilled")
    ends = Timestamp(seconds=int(time.time()) + HOUR // 2)
    create = {"plan": "wide", "subject": "ends in half an hour", "expire_time": ends}
    made = server.manage().ManageKey(admin_pb2.ManageKeyRequest(create=create), metadata=server.as_admin).create

    results = Counter[bool]()
    began = time.monotonic()
    for offset in (0, HOUR, 0, -HOUR, 0):
        clock.set_offset(offset)
        results += call_for(server, api_key, 1)
        last = check(server, api_key)
        results[last.allowed] += 1
        if not last.allowed:
            wait = last.retry_after.ToTimedelta().total_seconds()
            assert 0 < wait <= REFILL_SECONDS
            time.sleep(wait)
            results[check(server, api_key).allowed] += 1
        expected = CheckLimitResponse.KEY_EXPIRED if offset == HOUR else CheckLimitResponse.WITHIN_LIMIT
        assert check(server, made.secret).reason == expected, "the end of a key goes by the clock of the server"
        revoked_after(server, *server.key("wide"))
        assert ask(address, "/readyz").text == "ready\n"
    seconds = time.monotonic() - began
    assert results[True] <= CAPACITY * (1 + seconds / REFILL_SECONDS)
    assert results[False] > CAPACITY
    assert counted(server, key_id, results[True], results[False]) == (results[True], results[False])
