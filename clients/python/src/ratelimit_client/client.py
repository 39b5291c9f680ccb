"""The client for threads."""

import itertools
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self, TypeAlias, Unpack, cast

import grpc

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
from ._extender import Extender
from ._first_connection import FirstConnection
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
from ._granting import Grant, Granting
from ._readiness import PAUSE, Readiness
from ._request import CheckRequest
from ._reservation_state import ReservationState, Terms
from .decision import Decision
from .error import RateLimitError
from .failures import Failures
from .grants import Grants
from .options import ClientOptions, ClientOptionsDict
from .reservation import Reservation, Sending
from .settlement import OnError

_MIN_DEADLINE = 0.001

# Generic for type checkers only.
_CheckLimit: TypeAlias = "grpc.UnaryUnaryMultiCallable[CheckLimitRequest, CheckLimitResponse]"
_SettleLimit: TypeAlias = "grpc.UnaryUnaryMultiCallable[SettleLimitRequest, SettleLimitResponse]"
_ExtendHold: TypeAlias = "grpc.UnaryUnaryMultiCallable[ExtendHoldRequest, ExtendHoldResponse]"
_StreamGrant: TypeAlias = "grpc.StreamStreamMultiCallable[StreamGrantRequest, StreamGrantResponse]"


class RateLimitClient:
    """A client for all threads of a process. Create one and keep it.

    TARGET is host and port, such as `ratelimit.internal:50051`, or another name of gRPC's, such as
    `unix:/run/ratelimit.sock`; the keyword arguments are those of `ClientOptions`. Raises ValueError for a target that
    cannot be called, and for an option out of bounds. It connects at the first call: see `ready`.
    """

    def __init__(self, target: str, **options: Unpack[ClientOptionsDict]) -> None:
        checked = ClientOptions(**options)
        self._target = target
        self._deadline = checked.deadline
        self._state = ClientState(target, checked)
        self._channels = [_open(target, checked) for _ in range(checked.connections)]
        self._stubs = [_Stub.of(channel, checked.connect_timeout) for channel in self._channels]
        self._round_robin = itertools.cycle(self._stubs)
        self._connecting = threading.Lock()
        self._connects_first = checked.connect_timeout > 0
        self._extender = Extender()
        self._clock = checked.clock
        self._granting = (
            Granting.of(self._state, checked, self._next_grant, self._open_grants)
            if checked.mode == "granted"
            else None
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

    def check(
        self, api_key: str = "", resource: str = "", *, key_id: str = "", cost: int = 1, request_id: str = ""
    ) -> Decision:
        """Decide one call and charge its cost, or nothing if it is denied.

        API_KEY is the secret API key as the caller presented it. A gateway that has verified the key itself passes its
        public KEY_ID instead, which needs a token of role gateway. RESOURCE is what is being called, such as
        `orders.create`: at most 256 bytes. COST is in tokens, 0 to 9,007,199,254; 0 is a `peek`. REQUEST_ID makes the
        call idempotent: repeated within the service's window, it is charged once and gets the first decision. Without
        one, the client generates one for its own retry.

        Raises RateLimitError with INVALID_ARGUMENT for an absent key, a field out of bounds or text that is not valid
        UTF-8, and with another code when the token, its role or the target is wrong. When the service fails, nothing is
        raised: see `fail_open`.
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
                return self._granted(Call(api_key, key_id, resource, cost))
        return self._decide(CheckRequest.of(api_key, key_id, resource, cost, request_id))

    def peek(self, api_key: str = "", resource: str = "", *, key_id: str = "", request_id: str = "") -> Decision:
        """Decide one call at a cost of 0: nothing is charged.

        Only the state of the key can deny it, and a limit with an overdraft that has less than one token left.
        """
        return self.check(api_key, resource, key_id=key_id, cost=0, request_id=request_id)

    def charge(
        self, api_key: str = "", resource: str = "", *, cost: int, key_id: str = "", request_id: str = ""
    ) -> Decision:
        """Charge a COST that was incurred already, whatever the limits have, when a call has ended.

        Each limit takes what it has left, and then of its overdraft. `allowed` is whether there is something left for
        the next call. The other arguments and what is raised are those of `check`. When the service fails, the charge
        may be lost, or not: that is counted in `failures`, and REQUEST_ID makes it safe to repeat.
        """
        return self._decide(CheckRequest.charge(api_key, key_id, resource, cost, request_id))

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
    ) -> Reservation:
        """Decide one call by an ESTIMATE of its cost, and charge that until the actual cost takes its place.

        A scope by `with`, in which `settle` has the actual cost: what is left without that is settled at the estimate,
        or after an exception by ON_ERROR. ESTIMATE is in tokens, 0 to 9,007,199,254. HOLD is in seconds, 1 to 3,600: a
        reservation that is neither settled nor extended by then stays charged with its estimate. With EXTEND the hold
        is extended in the background while the scope is open. The other arguments and what is raised are those of
        `check`.
        """
        request = CheckRequest.of(api_key, key_id, resource, estimate, request_id).held(hold)
        state = ReservationState(self._state, self._decide(request), Terms(estimate, hold, on_error, extend))
        return Reservation(state, Sending(self._settle, self._extend, self._extend_later), self._extender)

    def ready(self, timeout: float = 5.0) -> None:
        """Return once the service has answered over every connection, which charges nothing.

        Raises RateLimitError with what is wrong: at once for a wrong token, say, and after TIMEOUT seconds (above 0)
        for a service that cannot be reached or fails until then.
        """
        readiness = Readiness(self._target, timeout, is_granted=self._granting is not None)
        for stub in self._stubs:
            self._await_answer(stub, readiness)
        self._connected()

    def wait_until_connected(self, timeout: float = 5.0) -> None:
        """Wait for all connections, so that the first calls need not. Raises TimeoutError after TIMEOUT seconds.

        Whether the service answers, and what is wrong otherwise, is what `ready` is for.
        """
        ends = time.monotonic() + timeout
        for channel in self._channels:
            try:
                grpc.channel_ready_future(channel).result(timeout=max(0.0, ends - time.monotonic()))
            except grpc.FutureTimeoutError:
                raise TimeoutError(f"no connection to the rate limit service within {timeout} s") from None
        self._connected()

    def close(self) -> None:
        """Close the connections. The holds of open reservations run out; units that are held are returned.

        Calls in flight and later ones raise RateLimitError with FAILED_PRECONDITION: they never fail open.
        """
        self._state.closed = True
        self._extender.close()
        if self._granting is not None:
            self._granting.close()
        self._connected()
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _decide(self, request: CheckRequest) -> Decision:
        began = time.monotonic()
        cached = self._state.cached(request)
        return self._state.measured(self._sent(request) if cached is None else cached, began)

    def _granted(self, call: Call) -> Decision:
        """The decision on a call for which no unit is at hand."""
        began = time.monotonic()
        self._state.raise_if_closed()
        assert self._granting is not None  # noqa: S101  as there are lines
        grant = self._next().grant
        waits_since = time.monotonic()
        decided = self._granting.decide(call, grant)
        if isinstance(decided, Decision):
            return decided
        result = None if decided is None else self._granting.wait(decided)
        if result is None:
            request = CheckRequest.of(call.api_key, call.key_id, call.resource, call.cost, "")
            cached = self._state.cached(request)
            result = self._sent(request, time.monotonic() - waits_since) if cached is None else cached
        elif isinstance(result, RateLimitError):
            self._state.raise_if_closed()
            result = self._state.failed_by(result)
        return self._state.measured(result, began)

    def _sent(self, request: CheckRequest, waited: float = 0.0) -> Decision:
        """The service's decision, or that of its failure. WAITED: seconds of the deadline that have passed."""
        stub = self._next()
        deadline = max(self._deadline - waited, _MIN_DEADLINE)
        ends = time.monotonic() + deadline
        try:
            response = self._send(stub, request.message, deadline)
        except grpc.RpcError as first:
            remaining = ends - time.monotonic()
            if not is_retryable(cast("grpc.Call", first), remaining):
                return self._state.failed(cast("grpc.Call", first))
            try:
                response = self._send(next(self._round_robin), request.again(), remaining)
            except grpc.RpcError as second:
                return self._state.failed(cast("grpc.Call", second))
        return self._state.decided(request, response)

    def _send(self, stub: "_Stub", message: CheckLimitRequest, timeout: float) -> CheckLimitResponse:
        try:
            return stub.check(message, timeout=timeout, metadata=self._state.metadata)
        except ValueError:  # of a channel that is closed
            self._state.raise_if_closed()
            raise

    def _settle(self, request: SettleLimitRequest) -> SettleLimitResponse:
        try:
            return self._next().settle(request, timeout=self._deadline, metadata=self._state.metadata)
        except ValueError:
            self._state.raise_if_closed()
            raise

    def _extend(self, request: ExtendHoldRequest) -> ExtendHoldResponse:
        try:
            return self._next().extend(request, timeout=self._deadline, metadata=self._state.metadata)
        except ValueError:
            self._state.raise_if_closed()
            raise

    def _extend_later(self, request: ExtendHoldRequest) -> "grpc.Future[ExtendHoldResponse]":
        """As `_extend`, without waiting: for the thread that extends all holds."""
        return next(self._round_robin).extend.future(request, timeout=self._deadline, metadata=self._state.metadata)

    def _await_answer(self, stub: "_Stub", readiness: Readiness) -> None:
        while True:
            self._state.raise_if_closed()
            try:
                self._send(stub, readiness.request, readiness.remaining)
            except grpc.RpcError as status:
                if readiness.is_answered(error_from(cast("grpc.Call", status))):
                    return
            else:
                return
            time.sleep(PAUSE)

    def _next_grant(self) -> Grant:
        """Without waiting for the connection: for what is sent in the background."""
        return next(self._round_robin).grant

    def _open_grants(self, requests: Iterator[StreamGrantRequest]) -> "grpc._CallIterator[StreamGrantResponse]":
        return next(self._round_robin).grants(requests, metadata=self._state.metadata)

    def _next(self) -> "_Stub":
        """The connection for the next call, once it was up, could not be connected, or has taken too long."""
        if self._connects_first:
            self._connect()
        stub = next(self._round_robin)
        if stub.first.pending:
            stub.first.wait()
        return stub

    def _connect(self) -> None:
        with self._connecting:
            if self._connects_first and not self._state.closed:
                for stub in self._stubs:
                    stub.first.begin()
            self._connects_first = False

    def _connected(self) -> None:
        """No call waits for a connection any more."""
        self._connects_first = False
        for stub in self._stubs:
            stub.first.end()


class _Stub(NamedTuple):
    """The methods over one connection."""

    check: _CheckLimit
    settle: _SettleLimit
    extend: _ExtendHold
    grant: Grant
    grants: _StreamGrant
    first: FirstConnection

    @classmethod
    def of(cls, channel: grpc.Channel, connect_timeout: float) -> "_Stub":
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
            FirstConnection(channel, connect_timeout),
        )


def _open(target: str, options: ClientOptions) -> grpc.Channel:
    credentials = channel_credentials(options.tls)
    if credentials is None:
        return grpc.insecure_channel(target, options=channel_options(options.connect_timeout))
    return grpc.secure_channel(target, credentials, options=channel_options(options.connect_timeout))
