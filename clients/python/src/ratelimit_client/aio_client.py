"""The client for asyncio."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self, TypeAlias, TypeVar, Unpack

import grpc

from ._aio_grant_stream import Call as StreamCall
from ._aio_granting import AsyncGranting
from ._client_state import ClientState, error_from, is_retryable
from ._connections import (
    CHECK_LIMIT,
    EXTEND_HOLD,
    GRANT,
    SETTLE_LIMIT,
    STREAM_GRANT,
    channel_credentials,
    channel_options,
)
from ._first_connection import AsyncFirstConnection
from ._gen.ratelimit.v1.rate_limit_service_pb2 import (
    CheckLimitRequest,
    CheckLimitResponse,
    ExtendHoldRequest,
    ExtendHoldResponse,
    GrantRequest,
    GrantResponse,
    SettleLimitRequest,
    SettleLimitResponse,
    StreamGrantRequest,
    StreamGrantResponse,
)
from ._grant_key import Call
from ._readiness import PAUSE, Readiness
from ._request import CheckRequest
from ._reservation_state import ReservationState, Terms
from .aio_reservation import AsyncReservation, Reserving
from .decision import Decision
from .error import RateLimitError
from .failures import Failures
from .grants import Grants
from .options import ClientOptions, ClientOptionsDict
from .settlement import OnError

_MIN_DEADLINE = 0.001

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
# Generic for type checkers only.
_CheckLimit: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[CheckLimitRequest, CheckLimitResponse]"
_SettleLimit: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[SettleLimitRequest, SettleLimitResponse]"
_ExtendHold: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[ExtendHoldRequest, ExtendHoldResponse]"
_Grant: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[GrantRequest, GrantResponse]"
_StreamGrant: TypeAlias = "grpc.aio.StreamStreamMultiCallable[StreamGrantRequest, StreamGrantResponse]"


class AsyncRateLimitClient:
    """A client for one event loop. Create one and keep it.

    TARGET is host and port, such as `ratelimit.internal:50051`, or another name of gRPC's, such as
    `unix:/run/ratelimit.sock`; the keyword arguments are those of `ClientOptions`. Raises ValueError for a target that
    cannot be called, and for an option out of bounds. May be created before the loop runs: it connects at the first
    call.
    """

    def __init__(self, target: str, **options: Unpack[ClientOptionsDict]) -> None:
        self._target = target
        self._options = ClientOptions(**options)
        self._state = ClientState(target, self._options)
        self._channels: list[grpc.aio.Channel] = []
        self._stubs: list[_Stub] = []
        self._round_robin: Iterator[_Stub] = iter(())
        self._background: set[asyncio.Task[None]] = set()
        self._clock = self._options.clock
        granted = self._options.mode == "granted"
        self._granting = (
            AsyncGranting.of(self._state, self._options, self._send_grant, self._open_grants) if granted else None
        )
        self._lines = None if self._granting is None else self._granting.lines

    @property
    def grants(self) -> Grants:
        """What was decided by grants. Nothing but zeros unless `mode` is `granted`."""
        return Grants() if self._granting is None else self._granting.grants

    @property
    def failures(self) -> Failures:
        """How many calls failed open and closed, and how many reservations stayed unsettled."""
        return self._state.failures.snapshot()

    async def check(
        self, api_key: str = "", resource: str = "", *, key_id: str = "", cost: int = 1, request_id: str = ""
    ) -> Decision:
        """Decide one call and charge its cost, as `RateLimitClient.check` does.

        A caller that abandons the call, by `asyncio.timeout` or by cancelling the task, gets TimeoutError or
        CancelledError: that never fails open.
        """
        if self._lines is not None and not request_id:
            line = self._lines.get((api_key, key_id, resource, cost))
            if line is not None:
                held = line.pool.held
                if self._clock() < held.expires:
                    unit = next(held.units, None)
                    if unit is not None:
                        line.tick()
                        return unit
            if cost:
                return await self._granted(Call(api_key, key_id, resource, cost))
        return await self._decide(CheckRequest.of(api_key, key_id, resource, cost, request_id))

    async def peek(self, api_key: str = "", resource: str = "", *, key_id: str = "", request_id: str = "") -> Decision:
        """Decide one call at a cost of 0, as `RateLimitClient.peek` does."""
        return await self.check(api_key, resource, key_id=key_id, cost=0, request_id=request_id)

    async def charge(
        self, api_key: str = "", resource: str = "", *, cost: int, key_id: str = "", request_id: str = ""
    ) -> Decision:
        """Charge a COST that was incurred already, as `RateLimitClient.charge` does."""
        return await self._decide(CheckRequest.charge(api_key, key_id, resource, cost, request_id))

    def reserve(  # noqa: PLR0913  keyword arguments, as those of `check`
        self,
        api_key: str = "",
        resource: str = "",
        *,
        estimate: int,
        hold: float,
        key_id: str = "",
        request_id: str = "",
        on_error: OnError = OnError.ESTIMATE,
        extend: bool = True,
    ) -> Reserving:
        """Decide one call by an ESTIMATE of its cost, as `RateLimitClient.reserve` does.

        A scope by `async with`; or await it, for a reservation without one. Cancelling the task leaves the scope by an
        exception.
        """
        request = CheckRequest.of(api_key, key_id, resource, estimate, request_id).held(hold)
        return Reserving(self._reserve(request, Terms(estimate, hold, on_error, extend)))

    async def ready(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109  as in the client for threads
        """Return once the service has answered over every connection, as `RateLimitClient.ready` does."""
        readiness = Readiness(self._target, timeout, is_granted=self._granting is not None)
        self._open()
        for stub in self._stubs:
            await self._await_answer(stub, readiness)
            stub.first.pending = False

    async def wait_until_connected(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109  as in the client for threads
        """Wait for all connections, so that the first calls need not. Raises TimeoutError after TIMEOUT seconds.

        Whether the service answers, and what is wrong otherwise, is what `ready` is for.
        """
        self._open()
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(*(channel.channel_ready() for channel in self._channels))
        except TimeoutError:
            raise TimeoutError(f"no connection to the rate limit service within {timeout} s") from None

    async def close(self) -> None:
        """Close the connections, as `RateLimitClient.close` does."""
        self._state.closed = True
        if self._granting is not None:
            await self._granting.close()
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _reserve(self, request: CheckRequest, terms: Terms) -> AsyncReservation:
        state = ReservationState(self._state, await self._decide(request), terms)
        return AsyncReservation(state, self._settle, self._extend, self._background)

    async def _decide(self, request: CheckRequest) -> Decision:
        began = time.monotonic()
        cached = self._state.cached(request)
        return self._state.measured(await self._sent(request) if cached is None else cached, began)

    async def _granted(self, call: Call) -> Decision:
        """The decision on a call for which no unit is at hand."""
        began = time.monotonic()
        await self._next()
        assert self._granting is not None  # noqa: S101  as there are lines
        waits_since = time.monotonic()
        decided = self._granting.decide(call)
        if isinstance(decided, Decision):
            return decided
        result = None if decided is None else await self._granting.wait(decided)
        if result is None:
            request = CheckRequest.of(call.api_key, call.key_id, call.resource, call.cost, "")
            cached = self._state.cached(request)
            result = await self._sent(request, time.monotonic() - waits_since) if cached is None else cached
        elif isinstance(result, RateLimitError):
            self._state.raise_if_closed()
            result = self._state.failed_by(result)
        return self._state.measured(result, began)

    async def _send_grant(self, request: GrantRequest, timeout: float) -> GrantResponse:  # noqa: ASYNC109  gRPC's own
        """Without waiting for the connection: for what is sent in the background."""
        return await self._send(next(self._round_robin).grant, request, timeout)

    def _open_grants(self) -> StreamCall:
        return next(self._round_robin).grants(metadata=self._state.metadata)

    async def _sent(self, request: CheckRequest, waited: float = 0.0) -> Decision:
        """The service's decision, or that of its failure. WAITED: seconds of the deadline that have passed."""
        stub = await self._next()
        deadline = max(self._options.deadline - waited, _MIN_DEADLINE)
        ends = time.monotonic() + deadline
        try:
            response = await self._send(stub.check, request.message, deadline)
        except grpc.aio.AioRpcError as first:
            remaining = ends - time.monotonic()
            if not is_retryable(first, remaining):
                return self._state.failed(first)
            try:
                response = await self._send(next(self._round_robin).check, request.again(), remaining)
            except grpc.aio.AioRpcError as second:
                return self._state.failed(second)
        return self._state.decided(request, response)

    async def _settle(self, request: SettleLimitRequest) -> SettleLimitResponse:
        return await self._send((await self._next()).settle, request, self._options.deadline)

    async def _extend(self, request: ExtendHoldRequest) -> ExtendHoldResponse:
        return await self._send((await self._next()).extend, request, self._options.deadline)

    async def _send(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]",
        request: _Request,
        timeout: float,  # noqa: ASYNC109  gRPC's own
    ) -> _Response:
        """The response to one attempt. Raises RateLimitError when the client is closed before or meanwhile."""
        try:
            return await method(request, timeout=timeout, metadata=self._state.metadata)
        except grpc.aio.UsageError:
            self._state.raise_if_closed()
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not task.cancelling():  # gRPC cancels the call, and not the task that waits for it
                self._state.raise_if_closed()
            raise

    async def _await_answer(self, stub: "_Stub", readiness: Readiness) -> None:
        while True:
            self._state.raise_if_closed()
            try:
                await self._send(stub.check, readiness.request, readiness.remaining)
            except grpc.aio.AioRpcError as status:
                if readiness.is_answered(error_from(status)):
                    return
            else:
                return
            await asyncio.sleep(PAUSE)

    async def _next(self) -> "_Stub":
        """The connection for the next call, once it was up, could not be connected, or has taken too long."""
        self._open()
        stub = next(self._round_robin)
        if stub.first.pending:
            await stub.first.wait()
        return stub

    def _open(self) -> None:
        self._state.raise_if_closed()
        if not self._stubs:
            self._channels = [_open(self._target, self._options) for _ in range(self._options.connections)]
            self._stubs = [_Stub.of(channel, self._options.connect_timeout) for channel in self._channels]
            self._round_robin = itertools.cycle(self._stubs)


class _Stub(NamedTuple):
    """The methods over one connection."""

    check: _CheckLimit
    settle: _SettleLimit
    extend: _ExtendHold
    grant: _Grant
    grants: _StreamGrant
    first: AsyncFirstConnection

    @classmethod
    def of(cls, channel: grpc.aio.Channel, connect_timeout: float) -> "_Stub":
        return cls(
            channel.unary_unary(
                CHECK_LIMIT,
                request_serializer=CheckLimitRequest.SerializeToString,
                response_deserializer=CheckLimitResponse.FromString,
            ),
            channel.unary_unary(
                SETTLE_LIMIT,
                request_serializer=SettleLimitRequest.SerializeToString,
                response_deserializer=SettleLimitResponse.FromString,
            ),
            channel.unary_unary(
                EXTEND_HOLD,
                request_serializer=ExtendHoldRequest.SerializeToString,
                response_deserializer=ExtendHoldResponse.FromString,
            ),
            channel.unary_unary(
                GRANT,
                request_serializer=GrantRequest.SerializeToString,
                response_deserializer=GrantResponse.FromString,
            ),
            channel.stream_stream(
                STREAM_GRANT,
                request_serializer=StreamGrantRequest.SerializeToString,
                response_deserializer=StreamGrantResponse.FromString,
            ),
            AsyncFirstConnection(channel, connect_timeout),
        )


def _open(target: str, options: ClientOptions) -> grpc.aio.Channel:
    credentials = channel_credentials(options.tls)
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=channel_options(options.connect_timeout))
    return grpc.aio.secure_channel(target, credentials, options=channel_options(options.connect_timeout))
