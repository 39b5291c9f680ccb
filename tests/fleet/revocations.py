"""How long gateways that decide by grants go on after a key was revoked."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import grpc
from ratelimit_client import AsyncRateLimitClient

from fixtures.served import Server
from fleet.patience import patiently
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageKeyRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.management.tokens import Role

GAP = 0.02
"""Seconds between two calls of a key by one gateway."""
WARM_UP = 0.6
LASTS = 1.2  # longer than a grant
PATIENCE = 30.0


class Delay(NamedTuple):
    """Of one key at one gateway the seconds until its last allowed call was made, 0 if there was none after that."""

    after_revoked: float
    """Since the call that revoked the key has returned."""
    after_known: float
    """Since the gateway's server has answered with a denial, so that it knew at the latest."""


class Gateway:
    """A client of one server that decides by grants, beside calls that the server decides.

    PUSHED: it has a stream, on which grants are withdrawn.
    """

    def __init__(self, server: Server, *, pushed: bool) -> None:
        self.pushed = pushed
        self._channel = grpc.aio.insecure_channel(server.address)
        self.client = AsyncRateLimitClient(
            server.address,
            token=server.tokens[Role.GATEWAY],
            mode="granted",
            deadline=5.0,
            fail_open=False,
            connections=1,
        )
        if not pushed:
            self.client._granting._stream._closed = True

    async def last_allowed(self, secret: str, ended: asyncio.Event) -> float:
        """Call until it has ENDED, and return when the last call was made that was allowed."""
        last = 0.0
        while not ended.is_set():
            sent = time.monotonic()
            if (await self.client.check(secret, "orders.create")).allowed:
                last = sent
            await asyncio.sleep(GAP)
        return last

    async def known(self, secret: str) -> float:
        """When the server has denied a call."""
        stub, request = RateLimitServiceStub(self._channel), CheckLimitRequest(api_key=secret, cost=0)
        while True:
            with suppress(grpc.aio.AioRpcError):  # refused under overload
                response = await stub.CheckLimit(request, timeout=PATIENCE)
                if not response.allowed:
                    return time.monotonic()
            await asyncio.sleep(GAP)

    async def close(self) -> None:
        await self.client.close()
        await self._channel.close()


@asynccontextmanager
async def opened(servers: Sequence[Server]) -> AsyncIterator[list[Gateway]]:
    """Two gateways of each server, one with a stream."""
    gateways = [Gateway(server, pushed=pushed) for server in servers for pushed in (True, False)]
    for gateway in gateways:
        await gateway.client.wait_until_connected(PATIENCE)
    yield gateways
    for gateway in gateways:
        await gateway.close()


async def delays(server: Server, gateways: Sequence[Gateway], key_id: str, secret: str) -> list[Delay]:
    """Revoke a key at a server, while all gateways call it."""
    ended = asyncio.Event()
    calling = [asyncio.create_task(gateway.last_allowed(secret, ended)) for gateway in gateways]
    await asyncio.sleep(WARM_UP)
    request = ManageKeyRequest(revoke=ManageKeyRequest.RevokeKey(key_id=key_id))

    def revoke() -> object:
        return server.manage().ManageKey(request, metadata=server.as_admin, timeout=PATIENCE)

    await asyncio.to_thread(patiently, revoke)
    revoked = time.monotonic()
    known = await asyncio.gather(*(gateway.known(secret) for gateway in gateways))
    await asyncio.sleep(LASTS)
    ended.set()
    last = await asyncio.gather(*calling)
    assert all(last)
    return [Delay(max(0.0, at - revoked), max(0.0, at - knew)) for at, knew in zip(last, known, strict=True)]


def percentile(values: Sequence[float], of: float) -> float:
    """The value that so large a part OF them does not exceed."""
    return sorted(values)[min(int(of * len(values)), len(values) - 1)]
