"""The client for threads."""

import itertools
import time
from types import TracebackType
from typing import Self, TypeAlias, Unpack, cast

import grpc

from ._channels import CHANNEL_OPTIONS, METHOD
from ._check import Check
from ._exchange import Exchange, may_be_sent_again
from ._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from .decision import Decision
from .failures import Failures
from .options import Options, Settings

# Generic for type checkers alone.
_Method: TypeAlias = "grpc.UnaryUnaryMultiCallable[CheckLimitRequest, CheckLimitResponse]"


class RateLimitClient:
    """Asks the service whether calls may go on. One client serves all threads of a process; make it once.

    TARGET is a gRPC name such as `ratelimit.internal:50051`. Options are those of `Settings`. Raises ValueError for an
    option that is out of bounds.
    """

    def __init__(self, target: str, **options: Unpack[Options]) -> None:
        settings = Settings(**options)
        self._deadline = settings.deadline
        self._exchange = Exchange(settings)
        self._channels = [_open(target, settings.credentials) for _ in range(settings.connections)]
        self._in_turn = itertools.cycle([_method(channel) for channel in self._channels])

    @property
    def failures(self) -> Failures:
        """How many calls the service could not be asked about."""
        return self._exchange.failures

    def check(self, api_key: str, resource: str = "", *, cost: int = 1, request_id: str | None = None) -> Decision:
        """Decide one call and charge its cost, or nothing if it is denied.

        RESOURCE is what is being called, such as `orders.create`: at most 256 bytes. COST is in tokens, 0 to 1,000,000;
        0 only looks. With a REQUEST_ID of the caller, repeating the call within the service's window charges it once
        and gives the first answer; without one, the client makes one up for its own retry.

        Raises InvalidCheck for a malformed key, a field out of bounds or text that is not valid UTF-8, and SetupError
        when the token, its role or the target is wrong. When the service cannot be asked, nothing is raised: see
        `fail_open`.
        """
        return self._decide(Check.by_api_key(api_key, resource, cost, request_id))

    def check_key_id(
        self, key_id: str, resource: str = "", *, cost: int = 1, request_id: str | None = None
    ) -> Decision:
        """As `check`, for a caller that has verified the secret itself. Needs a token of role gateway."""
        return self._decide(Check.by_key_id(key_id, resource, cost, request_id))

    def wait_until_connected(self, timeout: float = 5.0) -> None:
        """Wait for all connections, so that the first calls need not. Raises TimeoutError after TIMEOUT seconds."""
        ends = time.monotonic() + timeout
        for channel in self._channels:
            try:
                grpc.channel_ready_future(channel).result(timeout=max(0.0, ends - time.monotonic()))
            except grpc.FutureTimeoutError:
                raise TimeoutError(f"the rate limit service did not answer within {timeout} s") from None

    def close(self) -> None:
        """Close the connections. Calls under way end as failed."""
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _decide(self, check: Check) -> Decision:
        remembered = self._exchange.remembered(check)
        if remembered is not None:
            return remembered
        ends = time.monotonic() + self._deadline
        try:
            response = self._ask(check, self._deadline)
        except grpc.RpcError as first:
            left = ends - time.monotonic()
            if not may_be_sent_again(cast("grpc.Call", first).code(), left):
                return self._exchange.failed(cast("grpc.Call", first))
            try:
                response = self._ask(check, left)
            except grpc.RpcError as second:
                return self._exchange.failed(cast("grpc.Call", second))
        return self._exchange.answered(check, response)

    def _ask(self, check: Check, timeout: float) -> CheckLimitResponse:
        return next(self._in_turn)(check.request, timeout=timeout, metadata=self._exchange.metadata)


def _open(target: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
    return grpc.secure_channel(target, credentials, options=CHANNEL_OPTIONS)


def _method(channel: grpc.Channel) -> _Method:
    return channel.unary_unary(
        METHOD,
        request_serializer=CheckLimitRequest.SerializeToString,
        response_deserializer=CheckLimitResponse.FromString,
    )
