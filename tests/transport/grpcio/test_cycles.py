"""What a refused call leaves behind: nothing that waits for the garbage collector, which runs seldom on purpose."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import grpc
import pytest

from fixtures.cycles import no_cycles
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    BatchCheckLimitRequest,
    CheckLimitRequest,
    StreamCheckLimitRequest,
)
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.management.tokens import Role
from transport.grpcio.running import ADMIN, CHECKS, RunningServer

LIMIT = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
UNKNOWN = str(ApiKey("live", "0123456789abcdef", "s" * 27))
WRONG = "rlt_" + "x" * 16 + "_" + "x" * 43

Call = Callable[[RunningServer], Awaitable[object]]


def unary(method: str, data: bytes, role: Role | None = None, token: str = "") -> Call:
    """One message to a method."""

    async def call(running: RunningServer) -> None:
        sent = token or (role and running.tokens[role])
        metadata = (("authorization", f"Bearer {sent}"),) if sent else ()
        with suppress(grpc.aio.AioRpcError):
            await running.channel.unary_unary(method)(data, metadata=metadata, timeout=10)

    return call


def stream(*messages: bytes) -> Call:
    """Some messages on a stream of checks."""

    async def send() -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    async def call(running: RunningServer) -> None:
        responses = running.channel.stream_stream(f"{CHECKS}/StreamCheckLimit")(send(), timeout=10)
        with suppress(grpc.aio.AioRpcError):
            async for _ in responses:
                pass

    return call


async def empty(running: RunningServer) -> None:
    """A call without a message."""
    with suppress(grpc.aio.AioRpcError):
        await running.channel.stream_unary(f"{CHECKS}/CheckLimit")(iter(()), timeout=10)


async def cancelled(running: RunningServer) -> None:
    """A stream whose caller goes away."""

    async def send() -> AsyncIterator[bytes]:
        yield GOOD
        await asyncio.sleep(10)

    responses = running.channel.stream_stream(f"{CHECKS}/StreamCheckLimit")(send(), timeout=10)
    await asyncio.sleep(0.05)
    responses.cancel()


GOOD = StreamCheckLimitRequest(check=CheckLimitRequest(api_key="x")).SerializeToString()
BATCH = BatchCheckLimitRequest(
    checks=[{"api_key": "x"}, {"key_id": "0123456789abcdef"}, {"api_key": UNKNOWN, "cost": 2**63 - 1}, {}]
).SerializeToString()
BULK = admin_pb2.ManageKeyRequest(bulk_create={"keys": [{"subject": "x"}]}).SerializeToString()
STATES = admin_pb2.ManageKeyRequest(bulk_suspend={"key_ids": ["0123456789abcdef", "?"]}).SerializeToString()
CALLS = {
    "field": unary(f"{CHECKS}/CheckLimit", CheckLimitRequest(api_key="x", cost=2**63 - 1).SerializeToString()),
    "malformed": unary(f"{CHECKS}/CheckLimit", b"\xff"),
    "too large": unary(f"{CHECKS}/BatchCheckLimit", b"\x22" * 70_000),
    "fields in a batch": unary(f"{CHECKS}/BatchCheckLimit", BATCH),
    "token": unary(f"{CHECKS}/CheckLimit", b"", token=WRONG),
    "no such method": unary("/a/B", b""),
    "no message": empty,
    "role": unary(f"{ADMIN}/ManageKey", BULK, Role.GATEWAY),
    "admin field": unary(f"{ADMIN}/ManagePlan", b"", Role.ADMIN),
    "nested field": unary(
        f"{ADMIN}/ManagePlan",
        admin_pb2.ManagePlanRequest(create={"plan": {"name": "x", "limits": [{}]}}).SerializeToString(),
        Role.ADMIN,
    ),
    "not found": unary(
        f"{ADMIN}/ManagePlan", admin_pb2.ManagePlanRequest(get={"name": "none"}).SerializeToString(), Role.ADMIN
    ),
    "bulk": unary(f"{ADMIN}/ManageKey", BULK, Role.ADMIN),
    "bulk states": unary(f"{ADMIN}/ManageKey", STATES, Role.ADMIN),
    "fallback": unary(LIMIT, RateLimitRequest(domain="d", descriptors=[{}] * 200).SerializeToString()),
    "malformed in a stream": stream(GOOD, b"\xff"),
    "too large in a stream": stream(GOOD, b"\x22" * 70_000),
    "stream": stream(GOOD),
    "cancelled stream": cancelled,
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_refused_call_leaves_no_cycle(running: RunningServer, name: str) -> None:
    """Once it has ended, all that it held is free, however it was refused."""
    await CALLS[name](running)  # once, for what is imported and cached at the first
    await asyncio.sleep(0.1)
    with no_cycles():
        for _ in range(3):
            await CALLS[name](running)
        await asyncio.sleep(0.1)
