"""Steady load from stock gRPC clients, which counts every call that fails."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as grpc_stubs

_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


@dataclass
class Load:
    """The outcomes of the calls so far."""

    answered: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    last_failure: float = 0.0
    """When a call failed last, in monotonic seconds; 0 if none has."""
    stopping: bool = False

    async def settle(self, calls: int) -> None:
        """Wait until so many more calls have been answered."""
        until = self.answered + calls
        deadline = time.monotonic() + 30
        while self.answered < until:
            assert time.monotonic() < deadline, f"{until - self.answered} calls are still missing: {self.failures}"
            await asyncio.sleep(0.01)


@asynccontextmanager
async def load(address: str, api_key: str, *, clients: int, pause: float = 0.002) -> AsyncIterator[Load]:
    """Have CLIENTS clients, each with a connection of its own, make call after call, with a pause between two."""
    state = Load()

    async def calls(channel: grpc.aio.Channel) -> None:
        stub = grpc_stubs.RateLimitServiceStub(channel)
        while not state.stopping:
            try:
                answer = await stub.CheckLimit(pb2.CheckLimitRequest(api_key=api_key), timeout=10)
                assert answer.allowed
                state.answered += 1
            except grpc.aio.AioRpcError as error:
                state.failures[f"{error.code().name}: {error.details()}"] += 1
                state.last_failure = time.monotonic()
            await asyncio.sleep(pause)

    channels = [grpc.aio.insecure_channel(address, options=_OWN_CONNECTION) for _ in range(clients)]
    async with asyncio.TaskGroup() as group:
        for channel in channels:
            group.create_task(calls(channel))
        yield state
        state.stopping = True
    for channel in channels:
        await channel.close()
