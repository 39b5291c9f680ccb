"""An earlier version and this one side by side on the same stores, each restarted once under load.

Not part of `make test`, since it needs a checkout of the earlier version in which `make setup` was run:

    RATELIMIT_EARLIER=/path/to/checkout .venv/bin/pytest tests/faults/two_versions.py
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import grpc
import pytest

from faults.sizes import FULL, REPORT
from fixtures.counted import counted
from fixtures.served import Server, free_address, launch
from fixtures.valkey import StartValkey
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub

EARLIER = Path(os.environ["RATELIMIT_EARLIER"]) / ".venv" / "bin" / "ratelimit-service"
pytestmark = pytest.mark.timeout(1_800)
LOAD_SECONDS = 20.0 if FULL else 5.0
"""Before, between and after the two restarts."""

CLIENTS = 6
CAPACITY, RATE, AMOUNT = 300, 60, 5_000 if FULL else 1_500
LIMITS = {
    "bucket": {"token_bucket": {"capacity": CAPACITY, "refill_tokens": RATE, "refill_period": {"seconds": 1}}},
    "quota": {"quota": {"amount": AMOUNT, "window": "YEAR"}},
}


@pytest.fixture(params=["grpcio", "envoy"])
def both(
    request: pytest.FixtureRequest, own_server: Callable[..., Server], valkey: StartValkey, tmp_path: Path
) -> Iterator[list[Server]]:
    """A server of the earlier version, and one of this, on the schema of this."""
    new = own_server(request.param, redis_url=valkey().url, store_timeout=1.0)
    settings = new.settings.model_copy(update={"listen": free_address()})
    old = launch(settings, new.tokens, tmp_path / "earlier.log", program=EARLIER)
    old.wait_for_output("ratelimit-service serves on")
    servers = [old, new]
    yield servers
    servers[0].close()


class Callers:
    """Gateways in a closed loop, each with one channel over both servers, and what they got."""

    def __init__(self, servers: list[Server], keys: dict[str, str]) -> None:
        ports = ",".join(server.address for server in servers)
        options = [
            ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
        ]
        self._keys = keys
        self._channels = [grpc.aio.insecure_channel(f"ipv4:{ports}", options=options) for _ in range(CLIENTS)]
        self._ended = False
        self.phase = "side by side"
        self.allowed: Counter[str] = Counter()
        self.denied: Counter[str] = Counter()
        self.sources: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.ensure_future(self._call(channel)) for channel in self._channels]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended = True
        await asyncio.gather(*self._tasks)
        for channel in self._channels:
            await channel.close()

    async def _call(self, channel: grpc.aio.Channel) -> None:
        stub = RateLimitServiceStub(channel)
        while not self._ended:
            for name, api_key in self._keys.items():
                try:
                    response = await stub.CheckLimit(CheckLimitRequest(api_key=api_key), timeout=10)
                except grpc.aio.AioRpcError as error:
                    self.errors[f"{self.phase}: {error.code().name}: {error.details()}"] += 1
                    continue
                (self.allowed if response.allowed else self.denied)[name] += 1
                self.sources[response.source] += 1
            await asyncio.sleep(0.005)


async def test_side_by_side(both: list[Server], tmp_path: Path) -> None:
    """Both limits are exact, both versions count every call, and each follows the changes of the other."""
    old, new = both
    keys, ids = {}, {}
    for server, (name, limit) in zip(both, LIMITS.items(), strict=True):
        plan = {"name": name, "limits": [{"name": "only", **limit}]}
        request = admin_pb2.ManagePlanRequest(create={"plan": plan})
        await asyncio.to_thread(server.manage().ManagePlan, request, metadata=server.as_admin)
        ids[name], keys[name] = await asyncio.to_thread(server.key, name)
    began = time.monotonic()
    async with Callers(both, keys) as callers:
        await asyncio.sleep(LOAD_SECONDS)
        callers.phase = "the earlier version ends"
        assert await asyncio.to_thread(old.stop) == 0
        callers.phase = "this version alone"
        old = both[0] = launch(old.settings, old.tokens, tmp_path / "again.log", program=EARLIER)
        await asyncio.to_thread(old.wait_for_output, "ratelimit-service serves on")
        await asyncio.sleep(LOAD_SECONDS)
        callers.phase = "this version ends"
        assert await asyncio.to_thread(new.stop) == 0
        callers.phase = "the earlier version alone"
        again = launch(new.settings, new.tokens, tmp_path / "new.log")
        new.process, new.log = again.process, again.log
        await asyncio.to_thread(new.wait_for_output, "ratelimit-service serves on")
        await asyncio.sleep(LOAD_SECONDS)
    took = time.monotonic() - began
    calls = sum(callers.allowed.values()) + sum(callers.denied.values())
    REPORT.append(f"{calls} calls in {took:.0f} s: allowed {dict(callers.allowed)}, errors {dict(callers.errors)}")
    # With grpcio a client that is too slow to close its connection within a second of GOAWAY loses calls.
    lost = callers.errors.total()
    assert all(" ends: " in error for error in callers.errors), callers.errors
    assert lost <= calls / 10_000
    assert list(callers.sources) == [1], callers.sources
    assert AMOUNT - lost <= callers.allowed["quota"] <= AMOUNT
    assert callers.denied["quota"] > 0
    assert 0.97 * (CAPACITY + RATE * (took - 1)) <= callers.allowed["bucket"] <= CAPACITY + RATE * took
    for name, key_id in ids.items():
        expected = callers.allowed[name], callers.denied[name]
        found = await asyncio.to_thread(counted, new, key_id, *expected)
        assert 0 <= sum(found) - sum(expected) <= lost, (name, found, expected)
        assert found[0] >= expected[0]
    for changed, other in ((old, new), (new, old)):
        for server in both:
            server.close_channel()
        key_id, api_key = await asyncio.to_thread(changed.key, "bucket")
        stub = RateLimitServiceStub(other.channel)
        assert stub.CheckLimit(CheckLimitRequest(api_key=api_key), timeout=10).allowed
        revoke = admin_pb2.ManageKeyRequest(revoke={"key_id": key_id})
        changed.manage().ManageKey(revoke, metadata=changed.as_admin)
        revoked = time.monotonic()
        while stub.CheckLimit(CheckLimitRequest(api_key=api_key), timeout=10).allowed:
            assert time.monotonic() < revoked + 2
            await asyncio.sleep(0.02)
