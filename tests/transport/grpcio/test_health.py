"""What the health service reports while stores fail and recover, and what callers get meanwhile."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as checks_pb2
from ratelimit_service.decision.api_key import ApiKey
from transport.grpcio.conftest import FREE, MakeSettings
from transport.grpcio.relay import Relay
from transport.grpcio.running import Refusal, RunningServer, open_server

Status = health_pb2.HealthCheckResponse
COMPONENTS = ("", "postgres", "redis", "ratelimit.v1.RateLimitService", "ratelimit.v1.KeyAdminService")
ALL_SERVING = dict.fromkeys(COMPONENTS, Status.SERVING)


async def statuses(running: RunningServer) -> dict[str, int]:
    """The status of each component."""
    stub = health_pb2_grpc.HealthStub(running.channel)
    return {
        name: (await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)).status for name in COMPONENTS
    }


async def becomes(running: RunningServer, expected: dict[str, int], seconds: float) -> dict[str, int]:
    """The statuses once they are as expected, or after so many seconds."""
    for _ in range(round(seconds / 0.05)):
        if await statuses(running) == expected:
            break
        await asyncio.sleep(0.05)
    return await statuses(running)


@pytest.fixture
async def postgres(make_settings: MakeSettings) -> AsyncIterator[Relay]:
    """A relay to a database of the test's own."""
    settings = await asyncio.to_thread(make_settings)
    async with Relay(settings.database_url.get_secret_value()) as relay:
        yield relay


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Relay]:
    """A relay to Valkey."""
    async with Relay(valkey_url) as relay:
        yield relay


@pytest.fixture
async def running(make_settings: MakeSettings, postgres: Relay, redis: Relay) -> AsyncIterator[RunningServer]:
    """A server that reaches its stores through the relays, with plan `free`."""
    async with open_server(make_settings(database_url=postgres.url, redis_url=redis.url)) as running:
        await running.plan("create", plan=FREE)
        yield running


async def make_key(running: RunningServer) -> str:
    """A key on plan `free`."""
    return str((await running.key("create", plan="free", subject="someone")).create.secret)


async def test_every_component_serves_at_first(running: RunningServer) -> None:
    """Every component serves, and an unknown one is NOT_FOUND."""
    assert await statuses(running) == ALL_SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health_pb2_grpc.HealthStub(running.channel).Check(health_pb2.HealthCheckRequest(service="nothing"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_redis_fails_and_recovers(running: RunningServer, redis: Relay) -> None:
    """Only the component redis stops serving; calls are decided as DEGRADED, and by the store again once it is back."""
    key = await make_key(running)
    await redis.cut()
    down = await becomes(running, ALL_SERVING | {"redis": Status.NOT_SERVING}, 4)
    assert down == ALL_SERVING | {"redis": Status.NOT_SERVING}
    answer = await running.check(api_key=key, resource="r")
    assert isinstance(answer, checks_pb2.CheckLimitResponse), answer
    assert (answer.allowed, answer.source) == (True, checks_pb2.CheckLimitResponse.DEGRADED)
    await redis.mend()
    assert await becomes(running, ALL_SERVING, 4) == ALL_SERVING
    answer = await running.check(api_key=key, resource="r")
    assert isinstance(answer, checks_pb2.CheckLimitResponse), answer
    assert answer.source == checks_pb2.CheckLimitResponse.STORE


async def test_postgres_fails_and_recovers(running: RunningServer, postgres: Relay) -> None:
    """KeyAdminService fails too; known keys are decided as before, unknown ones and admins get UNAVAILABLE."""
    key = await make_key(running)
    assert isinstance(await running.check(api_key=key), checks_pb2.CheckLimitResponse)
    without = ALL_SERVING | {"postgres": Status.NOT_SERVING, "ratelimit.v1.KeyAdminService": Status.NOT_SERVING}
    await postgres.cut()
    assert await becomes(running, without, 4) == without

    known = await running.check(api_key=key)
    assert isinstance(known, checks_pb2.CheckLimitResponse), known
    assert (known.allowed, known.source) == (True, checks_pb2.CheckLimitResponse.STORE)
    loop = asyncio.get_running_loop()
    began = loop.time()
    refused = [
        await running.check(api_key=str(ApiKey.generate("live"))),
        await running.admin("ManageKey", admin_pb2.ManageKeyRequest(list={})),
    ]
    assert loop.time() - began < 2 * 1.2
    for answer in refused:
        assert isinstance(answer, Refusal), answer
        assert (answer.code, answer.reason) == (grpc.StatusCode.UNAVAILABLE, "POLICY_STORE_UNAVAILABLE")
        assert answer.retry_seconds > 0
        assert "postgres:" not in answer.message
    await postgres.mend()
    assert await becomes(running, ALL_SERVING, 4) == ALL_SERVING
    assert isinstance(
        await running.admin("ManageKey", admin_pb2.ManageKeyRequest(list={})), admin_pb2.ManageKeyResponse
    )


async def test_a_watcher_gets_each_change(running: RunningServer, redis: Relay) -> None:
    """Watch reports the status at once, each time it changes, and when the server drains."""
    watch = health_pb2_grpc.HealthStub(running.channel).Watch(
        health_pb2.HealthCheckRequest(service="redis"), timeout=30
    )
    received = [(await watch.read()).status]
    await redis.cut()
    received.append((await watch.read()).status)
    await redis.mend()
    received.append((await watch.read()).status)
    draining = asyncio.create_task(running.server.drain(5))
    received.append((await watch.read()).status)
    watch.cancel()
    await draining
    assert received == [Status.SERVING, Status.NOT_SERVING, Status.SERVING, Status.NOT_SERVING]


async def test_a_server_starts_without_redis(make_settings: MakeSettings, redis: Relay) -> None:
    """Without Redis at the start the server serves and reports it in its health; once Redis is back, it decides."""
    await redis.cut()
    settings = await asyncio.to_thread(make_settings, redis_url=redis.url)
    async with open_server(settings) as running:
        await running.plan("create", plan=FREE)
        key = await make_key(running)
        assert (await statuses(running))["redis"] == Status.NOT_SERVING
        answer = await running.check(api_key=key)
        assert isinstance(answer, checks_pb2.CheckLimitResponse), answer
        assert answer.source == checks_pb2.CheckLimitResponse.DEGRADED
        await redis.mend()
        assert await becomes(running, ALL_SERVING, 4) == ALL_SERVING
