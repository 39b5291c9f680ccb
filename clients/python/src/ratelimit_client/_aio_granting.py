"""Mode `granted` of the client for asyncio: sends what the book has to send, and waits for units."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Self, TypeAlias

import grpc

from ._aio_grant_stream import AsyncGrantStream
from ._aio_grant_stream import Call as StreamCall
from ._client_state import ClientState, error_from, is_retryable
from ._gen.ratelimit.v1.rate_limit_service_pb2 import GrantRequest, GrantResponse
from ._grant_batches import GrantBatches
from ._grant_book import GrantBook
from ._grant_forks import reset_when_forked
from ._grant_key import Asked, Call, Line, Result, Waiter
from ._grant_metrics import GrantMetrics
from .decision import Decision
from .error import RateLimitError
from .grants import Grants
from .options import ClientOptions

Send: TypeAlias = Callable[[GrantRequest, float], Awaitable[GrantResponse]]
"""Sends a request over the next connection, within so many seconds."""

_SECOND = 1_000_000_000  # nanoseconds
_MIN_WAIT, _MAX_WAIT = 0.001, 1.0
"""Seconds until the timer fires."""


class AsyncWaiting(Waiter):
    """A call whose task waits."""

    __slots__ = ("resolved",)

    def __init__(self, line: Line) -> None:
        self.resolved: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        super().__init__(line, self._resolve)

    def _resolve(self, result: Result) -> None:
        if not self.resolved.done():
            self.resolved.set_result(result)


class AsyncGranting:
    """Decides calls by grants, in one event loop, with one timer for all that is due."""

    def __init__(
        self,
        book: GrantBook,
        state: ClientState,
        options: ClientOptions,
        send: Send,
        open_stream: Callable[[], StreamCall],
    ) -> None:
        """SEND sends a request; it raises what the library does, and RateLimitError once the client is closed.

        OPEN_STREAM opens a `StreamGrant` over the next connection.
        """
        self._book = book
        self._state = state
        self._send_request = send
        self._stream = AsyncGrantStream(
            open_stream, lambda: GrantBatches(book, options.clock), self._send, self._without_stream
        )
        self._deadline = options.deadline
        self._clock = options.clock
        self._max_wait = _MAX_WAIT if options.clock is time.monotonic_ns else _MIN_WAIT
        self._metrics = GrantMetrics(lambda: book.grants, options.metrics, options.clock)
        self._wakes_at = 0
        self._sent = asyncio.Event()  # after each change
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        reset_when_forked(self)

    @classmethod
    def of(cls, state: ClientState, options: ClientOptions, send: Send, open_stream: Callable[[], StreamCall]) -> Self:
        """As these OPTIONS have it."""
        book = GrantBook(int(options.denial_cache_max_age * _SECOND), paced=options.near_limit == "paced")
        return cls(book, state, options, send, open_stream)

    @property
    def lines(self) -> Mapping[tuple[str, str, str, int], Line]:
        """Where units are taken for calls, by what a `Call` has."""
        return self._book.lines

    @property
    def grants(self) -> Grants:
        """The numbers so far."""
        return self._book.grants

    def decide(self, call: Call) -> Decision | AsyncWaiting | None:
        """The decision on CALL; None if it has to be checked by itself; or what it has to `wait` for."""
        decided = self._book.decide(call, self._clock(), AsyncWaiting)
        self._send()
        return decided

    async def wait(self, waiting: AsyncWaiting) -> Result:
        """What becomes of a call that waits for units, for the client's deadline at most."""
        try:
            await asyncio.wait((waiting.resolved,), timeout=self._deadline)
            if not waiting.resolved.done():
                self._book.end_wait(waiting)
            return waiting.resolved.result()
        finally:
            self._book.abandon(waiting)

    async def close(self) -> None:
        """Return all units. Waits for that for the client's deadline at most."""
        self._book.close(self._clock())
        self._send()
        ends = time.monotonic() + self._deadline
        while not self._book.is_settled and (left := ends - time.monotonic()) > 0:
            self._sent.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._sent.wait(), left)
        await self._stream.close()
        if self._timer is not None:
            self._timer.cancel()
        self._metrics.report()

    def forked(self) -> None:
        """In a child process: all grants are its parent's."""
        self._book.reset()
        self._stream.forked()

    def _send(self) -> None:
        """Send what the book has to send, and have the timer fire in time for what is due next."""
        self._sent.set()
        outbox = self._book.outbox
        while outbox:
            asked = outbox.popleft()
            if not self._stream.send(asked):
                self._begin(asked)
        due = self._next_due
        if due is not None and (self._timer is None or due < self._wakes_at):
            self._arm(due)

    def _begin(self, asked: Asked) -> None:
        task = asyncio.create_task(self._send_alone(asked))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _without_stream(self, rest: list[Asked]) -> None:
        """Send requests that a stream has not answered alone, but for those that have no time left."""
        now = self._clock()
        for asked in rest:
            if now - asked.at >= self._deadline * _SECOND:
                late = RateLimitError(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer on the stream")
                self._book.failed(asked, late, now)
            else:
                self._begin(asked)
        self._send()

    @property
    def _next_due(self) -> int | None:
        """When something is due: by the book, or since the stream does not answer. None: never."""
        due, oldest = self._book.next_due, self._stream.oldest
        late = None if oldest is None else oldest + int(self._deadline * _SECOND)
        return due if late is None else late if due is None else min(due, late)

    async def _send_alone(self, asked: Asked) -> None:
        ends = time.monotonic() + self._deadline
        try:
            try:
                response = await self._send_request(asked.message, self._deadline)
            except grpc.aio.AioRpcError as first:
                remaining = ends - time.monotonic()
                if not is_retryable(first, remaining):
                    raise
                response = await self._send_request(asked.message, remaining)
        except grpc.aio.AioRpcError as status:
            self._book.failed(asked, error_from(status), self._clock())
        except RateLimitError as closed:
            self._book.failed(asked, closed, self._clock())
        else:
            self._book.answered(asked, response, self._clock())
        self._send()

    def _arm(self, due: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        now = self._clock()
        wait = min(max((due - now) / _SECOND, _MIN_WAIT), self._max_wait)
        self._wakes_at = now + int(wait * _SECOND)
        self._timer = asyncio.get_running_loop().call_later(wait, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now, oldest = self._clock(), self._stream.oldest
        if oldest is not None and now - oldest >= self._deadline * _SECOND:
            self._stream.cancel()
        self._book.tick(now)
        self._send()
        self._metrics.report_sometimes()
