"""The client for asyncio."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self, TypeAlias, Unpack

import grpc

from ._channels import CHANNEL_OPTIONS, METHOD
from ._check import Check
from ._exchange import Exchange, may_be_sent_again
from ._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from .decision import Decision
from .failures import Failures
from .options import Options, Settings

# Generic for type checkers alone.
_Method: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[CheckLimitRequest, CheckLimitResponse]"


class AsyncRateLimitClient:
    """Asks the service whether calls may go on. Belongs to the event loop that it is first used in; make it once.

    TARGET is a gRPC name such as `ratelimit.internal:50051`. Options are those of `Settings`. Raises ValueError for an
    option that is out of bounds. May be made before the loop runs: connections are opened at first use.
    """

    def __init__(self, target: str, **options: Unpack[Options]) -> None:
        self._target = target
        self._settings = Settings(**options)
        self._exchange = Exchange(self._settings)
        self._channels: list[grpc.aio.Channel] = []
        self._in_turn: Iterator[_Method] | None = None

    @property
    def failures(self) -> Failures:
        """How many calls the service could not be asked about."""
        return self._exchange.failures

    async def check(
        self, api_key: str, resource: str = "", *, cost: int = 1, request_id: str | None = None
    ) -> Decision:
        """Decide one call. All is as in `RateLimitClient.check`.

        A caller that gives up, by `asyncio.timeout` or by cancelling the task, gets TimeoutError or CancelledError:
        that never fails open.
        """
        return await self._decide(Check.by_api_key(api_key, resource, cost, request_id))

    async def check_key_id(
        self, key_id: str, resource: str = "", *, cost: int = 1, request_id: str | None = None
    ) -> Decision:
        """As `check`, for a caller that has verified the secret itself. Needs a token of role gateway."""
        return await self._decide(Check.by_key_id(key_id, resource, cost, request_id))

    async def wait_until_connected(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109  as in the client for threads
        """Wait for all connections, so that the first calls need not. Raises TimeoutError after TIMEOUT seconds."""
        self._methods()
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(*(channel.channel_ready() for channel in self._channels))
        except TimeoutError:
            raise TimeoutError(f"the rate limit service did not answer within {timeout} s") from None

    async def close(self) -> None:
        """Close the connections. Calls under way are cancelled."""
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _decide(self, check: Check) -> Decision:
        remembered = self._exchange.remembered(check)
        if remembered is not None:
            return remembered
        deadline = self._settings.deadline
        ends = time.monotonic() + deadline
        try:
            response = await self._ask(check, deadline)
        except grpc.aio.AioRpcError as first:
            left = ends - time.monotonic()
            if not may_be_sent_again(first.code(), left):
                return self._exchange.failed(first)
            try:
                response = await self._ask(check, left)
            except grpc.aio.AioRpcError as second:
                return self._exchange.failed(second)
        return self._exchange.answered(check, response)

    async def _ask(self, check: Check, timeout: float) -> CheckLimitResponse:  # noqa: ASYNC109  gRPC keeps it
        return await next(self._methods())(check.request, timeout=timeout, metadata=self._exchange.metadata)

    def _methods(self) -> Iterator[_Method]:
        if self._in_turn is None:
            self._channels = [
                _open(self._target, self._settings.credentials) for _ in range(self._settings.connections)
            ]
            self._in_turn = itertools.cycle([_method(channel) for channel in self._channels])
        return self._in_turn


def _open(target: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(target, credentials, options=CHANNEL_OPTIONS)


def _method(channel: grpc.aio.Channel) -> _Method:
    return channel.unary_unary(
        METHOD,
        request_serializer=CheckLimitRequest.SerializeToString,
        response_deserializer=CheckLimitResponse.FromString,
    )
