"""A reservation of the client for asyncio."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Self, TypeAlias

import grpc

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

_Settle: TypeAlias = Callable[[SettleLimitRequest], Awaitable[SettleLimitResponse]]
_Extend: TypeAlias = Callable[[ExtendHoldRequest], Awaitable[ExtendHoldResponse]]


class AsyncReservation:
    """An estimate that was charged, until its actual cost takes its place: as `Reservation`, with `async with`."""

    def __init__(
        self, state: ReservationState, settle: _Settle, extend: _Extend, background: set[asyncio.Task[None]]
    ) -> None:
        """Made by `AsyncRateLimitClient.reserve`."""
        self._state = state
        self._send_settle = settle
        self._send_extend = extend
        self._background = background
        self._timer: asyncio.TimerHandle | None = None
        self._in_scope = False
        self._settling = asyncio.Lock()

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

    async def settle(self, actual: int) -> Settlement:
        """Charge the ACTUAL cost in place of the estimate, as `Reservation.settle` does.

        A caller that abandons this, by `asyncio.timeout` or by cancelling the task, can repeat it.
        """
        if self._state.is_open:
            async with self._settling:
                if self._state.is_open:  # another task may have settled it meanwhile
                    await self._settle(actual)
        return self._state.outcome

    async def extend(self, hold: float) -> bool:
        """Hold the reservation for HOLD seconds from now on, at least, as `Reservation.extend` does."""
        if not self._state.is_open:
            return False
        request = extend_request(self._state.id, hold)
        try:
            await self._send_extend(request)
        except grpc.aio.AioRpcError as status:
            raise_unless_failed(status)
            return False
        except RateLimitError:  # the client was closed meanwhile
            return False
        return True

    async def __aenter__(self) -> Self:
        self._in_scope = True
        self._extend_after(self._state.first_extension)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_extensions()
        actual = self._state.cost_at_end(failed=kind is not None)
        if actual is not None:
            # In a task of its own: cancelling the caller once more must not leave the estimate charged.
            await asyncio.shield(self._start(self._settle_at_end(actual, failed=kind is not None)))

    async def _settle_at_end(self, actual: int, *, failed: bool) -> None:
        try:
            await self.settle(actual)
        except RateLimitError as not_settled:
            if not failed:
                raise
            self._state.not_settled_at_end(not_settled)

    async def _settle(self, actual: int) -> None:
        request = settle_request(self._state.id, actual)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                self._state.settled(await self._send_settle(request))
            except grpc.aio.AioRpcError as status:
                self._state.not_settled(status, attempt)
            except RateLimitError as closed:  # the client was, meanwhile
                self._state.ended(closed)
            if self._state.settlement is not None:
                self._end_extensions()
                return

    def _extend_after(self, wait: float | None) -> None:
        if wait is not None and self._in_scope and self._state.is_open:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(wait, lambda: self._start(self._extend_in_background()))

    async def _extend_in_background(self) -> None:
        if not self._in_scope or not self._state.is_open:
            return
        failure = None
        try:
            await self._send_extend(extend_request(self._state.id, self._state.terms.hold))
        except grpc.aio.AioRpcError as status:
            failure = status
        except RateLimitError:  # the client was closed meanwhile
            return
        self._extend_after(self._state.next_extension(failure))

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._background.add(task)  # the loop itself keeps no task alive
        task.add_done_callback(self._background.discard)
        return task

    def _end_extensions(self) -> None:
        self._in_scope = False
        if self._timer is not None:
            self._timer.cancel()


class Reserving:
    """A call of `reserve`: await it for the reservation, or open its scope with `async with`."""

    def __init__(self, call: Coroutine[Any, Any, AsyncReservation]) -> None:
        self._call = call
        self._reservation: AsyncReservation | None = None

    def __await__(self) -> Generator[Any, None, AsyncReservation]:
        return self._call.__await__()

    async def __aenter__(self) -> AsyncReservation:
        self._reservation = await self._call
        return await self._reservation.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._reservation is not None:
            await self._reservation.__aexit__(kind, error, traceback)
