"""A stream of checks that is open while something happens to the server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from fixtures.served import Server
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as grpc_stubs


class Stream:
    """One StreamCheckLimit, and how many of its checks have no answer yet."""

    def __init__(self, call: grpc.aio.StreamStreamCall, api_key: str) -> None:
        self.call = call
        self._message = pb2.StreamCheckLimitRequest(check={"api_key": api_key})
        self._unanswered = 0

    async def send(self, checks: int) -> None:
        """Send so many checks."""
        for _ in range(checks):
            await self.call.write(self._message)
        self._unanswered += checks

    async def receive(self) -> None:
        """Read all answers that are due; each must allow its check."""
        while self._unanswered:
            answer = await self.call.read()
            assert answer is not grpc.aio.EOF
            assert answer.result.decision.allowed
            self._unanswered -= 1

    async def finish(self) -> None:
        """Read the answers that are due, after which the stream must end with OK."""
        await self.call.done_writing()
        await self.receive()
        assert await self.call.read() is grpc.aio.EOF
        assert await self.call.code() is grpc.StatusCode.OK


@asynccontextmanager
async def open_stream(server: Server, api_key: str) -> AsyncIterator[Stream]:
    """A stream on a connection of its own, whose first check was answered."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        stream = Stream(grpc_stubs.RateLimitServiceStub(channel).StreamCheckLimit(), api_key)
        await stream.send(1)
        await stream.receive()
        yield stream
