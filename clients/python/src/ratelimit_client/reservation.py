"""A reservation of the client for threads."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self, TypeAlias, cast

import grpc

from ._client_state import Status
from ._extender import Extender, Extension
from ._gen.ratelimit.v1.rate_limit_service_pb2 import (
    ExtendHoldRequest,
    ExtendHoldResponse,
    SettleLimitRequest,
    SettleLimitResponse,
)
from ._request import extend_request, settle_request
from ._reservation_state import MAX_ATTEMPTS, ReservationState, raise_unless_failed
from .decision import Decision
from .error import RateLimitError
from .settlement import Settlement

# Generic for type checkers only.
_ExtendLater: TypeAlias = "Callable[[ExtendHoldRequest], grpc.Future[ExtendHoldResponse]]"


class Sending(NamedTuple):
    """How the client sends what a reservation needs."""

    settle: Callable[[SettleLimitRequest], SettleLimitResponse]
    extend: Callable[[ExtendHoldRequest], ExtendHoldResponse]
    extend_later: _ExtendLater
    """As `extend`, without waiting."""


class Reservation:
    """An estimate that was charged, until its actual cost takes its place.

    A scope by `with`: it extends the hold in the background, and settles what is left without a settlement, at the
    estimate, or after an exception by `on_error`. Its methods can be called by several threads.
    """

    def __init__(self, state: ReservationState, sending: Sending, extender: Extender) -> None:
        """Made by `RateLimitClient.reserve`."""
        self._state = state
        self._sending = sending
        self._extender = extender
        self._extension: Extension | None = None
        self._in_scope = False
        self._settling = threading.Lock()

    @property
    def decision(self) -> Decision:
        """The decision on the estimate."""
        return self._state.decision

    @property
    def allowed(self) -> bool:
        """Whether the call may proceed."""
        return self._state.decision.allowed

    @property
    def id(self) -> str:
        """The service's id of the reservation, a secret. Empty when there is nothing to settle."""
        return self._state.id

    def settle(self, actual: int) -> Settlement:
        """Charge the ACTUAL cost, 0 to 9,007,199,254 tokens, in place of the estimate.

        The first settlement is final: any further call returns it and sends nothing. A failing service gets it up to
        three times, each with the client's deadline. If it fails then, or the hold has ended, nothing is raised: the
        settlement is not `settled`, and is counted in `failures`. Raises RateLimitError for an ACTUAL out of bounds and
        for a wrong token; then it can be repeated.
        """
        if self._state.is_open:
            with self._settling:
                if self._state.is_open:  # another thread may have settled it meanwhile
                    self._settle(actual)
        return self._state.outcome

    def extend(self, hold: float) -> bool:
        """Hold the reservation for HOLD seconds from now on, at least: 1 to 3,600.

        Whether it succeeded: not when the service fails, or the hold has ended. Raises RateLimitError for a HOLD out of
        bounds, and for a wrong token.
        """
        if not self._state.is_open:
            return False
        request = extend_request(self._state.id, hold)
        try:
            self._sending.extend(request)
        except grpc.RpcError as status:
            raise_unless_failed(cast("grpc.Call", status))
            return False
        except RateLimitError:  # the client was closed meanwhile
            return False
        return True

    def __enter__(self) -> Self:
        self._in_scope = True
        self._extend_after(self._state.first_extension)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_extensions()
        actual = self._state.cost_at_end(failed=kind is not None)
        if actual is None:
            return
        try:
            self.settle(actual)
        except RateLimitError as not_settled:
            if kind is None:
                raise
            self._state.not_settled_at_end(not_settled)

    def _settle(self, actual: int) -> None:
        request = settle_request(self._state.id, actual)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                self._state.settled(self._sending.settle(request))
            except grpc.RpcError as status:
                self._state.not_settled(cast("grpc.Call", status), attempt)
            except RateLimitError as closed:  # the client was, meanwhile
                self._state.ended(closed)
            if self._state.settlement is not None:
                self._end_extensions()
                return

    def _extend_after(self, wait: float | None) -> None:
        if wait is not None and self._in_scope and self._state.is_open:
            self._extension = self._extender.schedule(wait, self._extend_in_background)

    def _extend_in_background(self) -> None:
        if self._in_scope and self._state.is_open:
            sent = self._sending.extend_later(extend_request(self._state.id, self._state.terms.hold))
            sent.add_done_callback(self._extended)

    def _extended(self, sent: "grpc.Future[ExtendHoldResponse]") -> None:
        failure = cast("Status | None", sent.exception())
        self._extend_after(self._state.next_extension(failure))

    def _end_extensions(self) -> None:
        self._in_scope = False
        if self._extension is not None:
            self._extender.cancel(self._extension)
