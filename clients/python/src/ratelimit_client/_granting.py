"""Mode `granted` of the client for threads: sends what the book has to send, and waits for units."""

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Self, TypeAlias, cast

import grpc

from ._client_state import ClientState, Status, error_from, is_retryable
from ._gen.ratelimit.v1.rate_limit_service_pb2 import GrantRequest, GrantResponse
from ._grant_batches import GrantBatches
from ._grant_book import GrantBook
from ._grant_forks import reset_when_forked
from ._grant_key import Asked, Call, Line, Result, Waiter
from ._grant_metrics import GrantMetrics
from ._grant_stream import GrantStream, Open
from .decision import Decision
from .error import RateLimitError
from .grants import Grants
from .options import ClientOptions

# Generic for type checkers only.
Grant: TypeAlias = "grpc.UnaryUnaryMultiCallable[GrantRequest, GrantResponse]"

_SECOND = 1_000_000_000  # nanoseconds
_MIN_WAIT, _MAX_WAIT = 0.001, 1.0
"""Seconds for which the thread sleeps."""
_IDLE = 10.0
"""Seconds that it waits for something to do before it ends."""


class Waiting(Waiter):
    """A call whose thread waits."""

    __slots__ = ("_resolved", "result")

    def __init__(self, line: Line) -> None:
        super().__init__(line, self._resolve)
        self.result: Result = None
        self._resolved = threading.Lock()
        self._resolved.acquire()

    def wait(self, seconds: float) -> bool:
        """Whether it is resolved in this time."""
        return self._resolved.acquire(timeout=max(0.0, seconds))

    def _resolve(self, result: Result) -> None:
        self.result = result
        self._resolved.release()


class Granting:
    """Decides calls by grants.

    A daemon thread does what is due while there is something: it returns units that nobody spends, asks for more before
    others expire, and reports to the metrics. Responses are taken over in gRPC's own threads.
    """

    def __init__(
        self,
        book: GrantBook,
        state: ClientState,
        options: ClientOptions,
        next_grant: Callable[[], Grant],
        open_stream: Open,
    ) -> None:
        """NEXT_GRANT: the method `Grant` over the next connection. OPEN_STREAM opens a `StreamGrant` over another."""
        self._book = book
        self._state = state
        self._next_grant = next_grant
        self._stream = GrantStream(
            open_stream, lambda: GrantBatches(book, options.clock), self._send, self._without_stream
        )
        self._deadline = options.deadline
        self._clock = options.clock
        self._max_wait = _MAX_WAIT if options.clock is time.monotonic_ns else _MIN_WAIT
        self._metrics = GrantMetrics(lambda: book.grants, options.metrics, options.clock)
        self._wakes_at = 0
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        reset_when_forked(self)

    @classmethod
    def of(cls, state: ClientState, options: ClientOptions, next_grant: Callable[[], Grant], open_stream: Open) -> Self:
        """As these OPTIONS have it."""
        book = GrantBook(int(options.denial_cache_max_age * _SECOND), paced=options.near_limit == "paced")
        return cls(book, state, options, next_grant, open_stream)

    @property
    def lines(self) -> Mapping[tuple[str, str, str, int], Line]:
        """Where units are taken for calls, by what a `Call` has."""
        return self._book.lines

    @property
    def grants(self) -> Grants:
        """The numbers so far."""
        return self._book.grants

    def decide(self, call: Call, grant: Grant) -> Decision | Waiting | None:
        """The decision on CALL; None if it has to be checked by itself; or what it has to `wait` for.

        GRANT sends a request over a connection that is there.
        """
        decided = self._book.decide(call, self._clock(), Waiting)
        self._send(grant)
        return decided

    def wait(self, waiting: Waiting) -> Result:
        """What becomes of a call that waits for units, for the client's deadline at most."""
        if not waiting.wait(self._deadline):
            self._book.end_wait(waiting)
        return waiting.result

    def close(self) -> None:
        """Return all units. Waits for that for the client's deadline at most."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._book.close(self._clock())
        self._send()
        ends = time.monotonic() + self._deadline
        while not self._book.is_settled and time.monotonic() < ends:
            time.sleep(_MIN_WAIT)
        self._stream.close()
        self._metrics.report()

    def forked(self) -> None:
        """In a child process: all grants are its parent's, and so is the thread."""
        self._book.reset()
        self._stream.forked()
        self._condition = threading.Condition()
        self._thread = None

    def _send(self, grant: "Grant | None" = None) -> None:
        """Send what the book has to send, and have the thread wake up in time for what is due next."""
        outbox = self._book.outbox
        while outbox:
            try:
                asked = outbox.popleft()
            except IndexError:  # another thread was faster
                break
            if not self._stream.send(asked):
                self._send_alone(asked, grant or self._next_grant(), self._deadline)
        due = self._next_due
        if due is not None and (due < self._wakes_at or self._thread is None):
            self._wake(due)

    def _send_alone(self, asked: Asked, grant: Grant, timeout: float, *, again: bool = False) -> None:
        ends = time.monotonic() + timeout
        try:
            sent = grant.future(asked.message, timeout=timeout, metadata=self._state.metadata)
        except ValueError:  # of a channel that is closed
            self._failed(asked, RateLimitError(grpc.StatusCode.CANCELLED, "the client is closed"))
            return
        sent.add_done_callback(partial(self._answered, asked, ends, again))

    def _answered(self, asked: Asked, ends: float, again: bool, sent: "grpc.Future[GrantResponse]") -> None:  # noqa: FBT001
        failure = cast("Status | None", sent.exception())
        if failure is None:
            self._book.answered(asked, sent.result(), self._clock())
            self._send()
            return
        remaining = ends - time.monotonic()
        if not again and is_retryable(failure, remaining):
            self._send_alone(asked, self._next_grant(), remaining, again=True)
        else:
            self._failed(asked, error_from(failure))

    def _without_stream(self, rest: list[Asked]) -> None:
        """Send requests that a stream has not answered alone, but for those that have no time left."""
        now = self._clock()
        for asked in rest:
            if now - asked.at >= self._deadline * _SECOND:
                self._failed(asked, RateLimitError(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer on the stream"))
            else:
                self._send_alone(asked, self._next_grant(), self._deadline)

    @property
    def _next_due(self) -> int | None:
        """When something is due: by the book, or since the stream does not answer. None: never."""
        due, oldest = self._book.next_due, self._stream.oldest
        late = None if oldest is None else oldest + int(self._deadline * _SECOND)
        return due if late is None else late if due is None else min(due, late)

    def _failed(self, asked: Asked, error: RateLimitError) -> None:
        self._book.failed(asked, error, self._clock())
        self._send()

    def _wake(self, due: int) -> None:
        with self._condition:
            if self._closed:
                return
            if self._thread is None or not self._thread.is_alive():
                self._wakes_at = due
                self._thread = threading.Thread(target=self._run, name="ratelimit-grants", daemon=True)
                self._thread.start()
            elif due < self._wakes_at:
                self._wakes_at = due
                self._condition.notify()

    def _run(self) -> None:
        while self._sleep():
            now, oldest = self._clock(), self._stream.oldest
            if oldest is not None and now - oldest >= self._deadline * _SECOND:
                self._stream.cancel()
            self._book.tick(now)
            self._send()
            self._metrics.report_sometimes()

    def _sleep(self) -> bool:
        """Sleep until something is due. False: the thread ends."""
        with self._condition:
            due = self._next_due
            now = self._clock()
            wait = _IDLE if due is None else min(max((due - now) / _SECOND, _MIN_WAIT), self._max_wait)
            self._wakes_at = now + int(wait * _SECOND)
            notified = self._condition.wait(wait)
            if self._closed or (due is None and not notified and self._book.next_due is None):
                self._thread = None
                return False
            return True
