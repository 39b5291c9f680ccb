"""Batches charges: one script run at a time, with all the charges that were queued while the last one was in flight."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, cast

import hiredis

from ratelimit_service.buckets.redis.connection import Connection, ConnectionLost
from ratelimit_service.buckets.redis.room import Room
from ratelimit_service.buckets.redis.script import Encoded, Encoder, decode, usage_key
from ratelimit_service.decision.charge import NO_ROOM, Charge, ChargeResult
from ratelimit_service.decision.ports import QueueTimeout, StoreUnavailable


class RoundTripObserver(Protocol):
    """Observes each script run that had charges in it, on the hot path: what it costs is paid for each."""

    def answered(self, charges: int, seconds: float) -> None:
        """A run with this many charges was answered after this time."""
        ...

    def failed(self) -> None:
        """A run got no reply, or an error."""
        ...

    def refused(self, buckets: int) -> None:
        """So many new buckets found no room in the store."""
        ...

    def memory(self, share: float) -> None:
        """The servers were asked: the fullest uses this share of its memory."""
        ...


class UsageObserver(Protocol):
    """Gets what the script cannot count, or may have counted although its callers got no result."""

    def charged(self, charge: Charge, result: ChargeResult) -> None:
        """A charge was decided by several runs, of which none counted it."""
        ...

    def answered_late(self, charges: Sequence[Charge]) -> None:
        """These charges were decided after their calls had failed."""
        ...

    def unanswered(self, charges: Sequence[Charge]) -> None:
        """Whether these charges were made, and counted, will never be known."""
        ...


class LevelObserver(Protocol):
    """Gets the result of each charge, on the hot path."""

    def observe(self, charges: Sequence[Charge], results: Sequence[ChargeResult], now: float, /) -> None:
        """These charges had these results at NOW, a monotonic time in seconds."""
        ...


class Unobserved:
    """An observer that does nothing."""

    def answered(self, charges: int, seconds: float) -> None:
        """Do nothing."""

    def failed(self) -> None:
        """Do nothing."""

    def refused(self, buckets: int) -> None:
        """Do nothing."""

    def memory(self, share: float) -> None:
        """Do nothing."""

    def charged(self, charge: Charge, result: ChargeResult) -> None:
        """Do nothing."""

    def answered_late(self, charges: Sequence[Charge]) -> None:
        """Do nothing."""

    def unanswered(self, charges: Sequence[Charge]) -> None:
        """Do nothing."""

    def observe(self, charges: Sequence[Charge], results: Sequence[ChargeResult], now: float, /) -> None:
        """Do nothing."""


class Observers(NamedTuple):
    """The observers of a store."""

    round_trips: RoundTripObserver = Unobserved()
    usage: UsageObserver = Unobserved()
    levels: LevelObserver = Unobserved()


UNOBSERVED = Observers()
"""A store that nobody observes."""


MAX_CHARGES = 256
"""Charges in one script run, unless a single call has more. A run with 256 occupies Redis for about a millisecond."""

MAX_SIZE = 512
"""Buckets and series in one script run, unless a single charge has more. A run with so many takes Redis 4 ms, in which
nobody else is served. They all go through Lua's stack, which holds 8,000."""

_LARGE = 64
"""Buckets of a charge that may take Redis so long that a missing reply to it does not show that Redis is away."""

# Error replies that come before anything is executed, so that the same command may be sent again.
_NOT_EXECUTED = ("NOSCRIPT", "LOADING", "READONLY", "MASTERDOWN", "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")
# Iterations of the loop that a late reply still gets: after the loop was blocked for long, it may run the timer before
# it reads the socket.
_GRACE_ITERATIONS = 3


class Route(Protocol):
    """Connects to the server that has the batcher's buckets."""

    def connection(self) -> Connection | None:
        """The open connection, if there is one now."""
        ...

    async def recover(self, error: str) -> Connection:
        """A connection for the next try after an ERROR reply; "" when there was no connection. May wait for a moment.

        The caller sends its command in the same iteration of the loop in which this returns. Raises StoreUnavailable.
        """
        ...


class _Call(NamedTuple):
    charges: Sequence[Charge]
    future: asyncio.Future[list[ChargeResult]]
    submitted_at: float
    deadline: float | None


class _InFlightBatch:
    """The calls of one script run: sent on `connection`, or about to be sent by `retry`.

    `error` is the reply to the last attempt, if that was an error. `room` is what the server had room for then.
    `conclusive`: whether a missing reply shows that the server is away.
    """

    __slots__ = ("calls", "conclusive", "connection", "encoded", "error", "retry", "room", "started_at", "timer")

    @property
    def counted(self) -> list[Charge]:
        """The charges that the script counts."""
        return [charge for call in self.calls for charge in call.charges if charge.counted]

    def __init__(self, calls: list[_Call], encoded: Encoded, started_at: float) -> None:
        self.started_at = started_at
        self.calls = calls
        self.encoded = encoded
        self.connection: Connection | None = None
        self.retry: asyncio.Task[None] | None = None
        self.error = ""
        self.room = Room.PLENTY
        self.conclusive = True
        self.timer: asyncio.TimerHandle | None = None


class Batcher:
    """Sends the charges for one server, or for one slot of a cluster.

    `tag` is that of the keys in which usage is counted. `timeout` in seconds bounds each call from its submission to
    its result. A single call is sent in the next iteration of the loop.
    """

    def __init__(self, route: Route, encoder: Encoder, tag: bytes, timeout: float, observers: Observers) -> None:
        self._route = route
        self._encoder = encoder
        self._usage = usage_key(tag)
        self._timeout = timeout
        self._observer = observers.round_trips
        self._usage_observer = observers.usage
        self._observe_levels = observers.levels.observe
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Call] = deque()
        self._busy = False  # a batch is in flight, or will be in the next iteration
        self._in_flight: _InFlightBatch | None = None
        self._failing = False  # the last batch failed: what waited for it is late because of the store
        self._silent_since: float | None = None  # when the first batch after the last reply was sent
        self._given_up: set[Connection] = set()  # open for late replies

    def submit(self, charges: Sequence[Charge], deadline: float | None = None) -> asyncio.Future[list[ChargeResult]]:
        """Queue one call's CHARGES. The future raises StoreUnavailable. If cancelled before the send, none is made.

        If they cannot be sent before the call times out or its DEADLINE, a monotonic time in seconds, passes, it raises
        QueueTimeout, unless it waited for a batch that failed.
        """
        loop = self._loop
        future: asyncio.Future[list[ChargeResult]] = loop.create_future()
        self._queue.append(_Call(charges, future, loop.time(), deadline))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._send_batch)
        return future

    def close(self) -> None:
        """Fail all calls that have no result yet."""
        batch = self._in_flight
        if batch is not None and batch.retry is not None:
            batch.retry.cancel()
        if batch is not None and batch.timer is not None:
            batch.timer.cancel()
        if batch is not None:
            sent = batch.connection is not None
            _fail_calls(batch.calls, StoreUnavailable("the bucket store was closed", sent=sent))
        _fail_calls(self._queue, StoreUnavailable("the bucket store was closed"))
        self._queue.clear()
        for connection in self._given_up:
            connection.close("the bucket store was closed")

    def _send_batch(self) -> None:
        calls = self._take_from_queue()
        if not calls:
            self._busy = False
            return
        try:
            encoded = self._encoder.encode([charge for call in calls for charge in call.charges], self._usage)
        except (ValueError, OverflowError) as error:  # a charge that breaks its contract must not stop the batcher
            _fail_calls(calls, StoreUnavailable(f"a charge cannot be sent: {error}"))
            self._schedule_next()
            return
        batch = self._in_flight = _InFlightBatch(calls, encoded, self._loop.time())
        if self._silent_since is None:
            self._silent_since = batch.started_at
        deadline = calls[0].submitted_at + self._timeout
        batch.timer = self._loop.call_at(deadline, self._time_out, batch, _GRACE_ITERATIONS)
        connection = self._route.connection()
        if connection is None:
            self._retry(batch, "")
        else:
            batch.connection = connection
            batch.room = room = connection.room
            connection.send(self._encoder.evalsha(batch.encoded, room), lambda reply: self._on_reply(batch, reply))

    def _take_from_queue(self) -> list[_Call]:
        calls: list[_Call] = []
        charges = size = 0
        now = self._loop.time()
        while self._queue:
            call = self._queue[0]
            charges += len(call.charges)
            size += sum([len(buckets) + len(counted) for buckets, _, _, counted in call.charges])
            if calls and (charges > MAX_CHARGES or size > MAX_SIZE):
                break
            self._queue.popleft()
            if call.future.done():  # a cancelled call is not charged
                continue
            if call.submitted_at + self._timeout <= now:  # nor is one that is too late for its result
                _fail_calls([call], self._queue_timeout())
                continue
            if call.deadline is not None and call.deadline <= now:
                _fail_calls([call], QueueTimeout("the deadline passed in the queue for Redis", deadline=True))
                continue
            calls.append(call)
        return calls

    def _queue_timeout(self) -> StoreUnavailable:
        message = f"timed out after {self._timeout:g} s in the queue for Redis"
        return StoreUnavailable(message) if self._failing else QueueTimeout(message, deadline=False)

    def _on_reply(self, batch: _InFlightBatch, reply: object) -> None:
        if isinstance(reply, list):
            self._complete(batch, reply)
        elif isinstance(reply, hiredis.ReplyError) and str(reply).startswith(_NOT_EXECUTED):
            batch.connection = None
            self._retry(batch, str(reply))
        elif isinstance(reply, hiredis.ReplyError) and str(reply).startswith("OOM") and batch.room is not Room.FULL:
            connection = cast("Connection", batch.connection)
            batch.room = connection.room = Room.FULL
            connection.send(self._encoder.evalsha(batch.encoded, Room.FULL), lambda reply: self._on_reply(batch, reply))
        elif isinstance(reply, ConnectionLost):
            reply.late = lambda late: self._on_late_reply(batch, late)
            self._fail(batch, StoreUnavailable(str(reply), sent=True, conclusive=batch.conclusive))
        else:
            self._fail(batch, StoreUnavailable(f"Redis rejected the charge script: {reply}"))

    def _complete(self, batch: _InFlightBatch, reply: list[int]) -> None:
        calls = batch.calls
        try:
            charges = [charge for call in calls for charge in call.charges]
            results = decode(charges, reply)
        except (ValueError, IndexError) as error:
            self._fail(batch, StoreUnavailable(f"Redis sent an invalid reply: {error}", sent=True))
            return
        self._failing = False
        self._silent_since = None
        if batch.room:
            self._observer.refused(sum(limit.wait_us == NO_ROOM for made in results for limit in made.limit_results))
        if results:  # a ping has none
            now = self._loop.time()
            self._observer.answered(len(results), now - batch.started_at)
            self._observe_levels(charges, results, now)
        start = 0
        for call in calls:
            future, end = call.future, start + len(call.charges)
            if not future.done():
                future.set_result(results[start:end])
            start = end
        self._finish(batch)

    def _fail(self, batch: _InFlightBatch, error: StoreUnavailable) -> None:
        self._failing = error.conclusive
        self._observer.failed()
        _fail_calls(batch.calls, error)
        self._finish(batch)

    def _finish(self, batch: _InFlightBatch) -> None:
        if batch.timer is not None:
            batch.timer.cancel()
        self._in_flight = None
        self._schedule_next()

    def _schedule_next(self) -> None:
        if self._queue:
            # In the next iteration: the callers that just got their results may submit more.
            self._loop.call_soon(self._send_batch)
        else:
            self._busy = False

    def _retry(self, batch: _InFlightBatch, error: str) -> None:
        batch.error = error
        batch.retry = self._loop.create_task(self._resend(batch, error))

    async def _resend(self, batch: _InFlightBatch, error: str) -> None:
        encoder = self._encoder
        try:
            if error.startswith("NOSCRIPT"):
                connection = self._route.connection() or await self._route.recover("")
                # Still the script that a server out of memory runs, whatever it was found to have room for meanwhile.
                batch.room = batch.room if batch.room is Room.FULL else connection.room
                command = encoder.eval(batch.encoded, batch.room)
            else:
                connection = await self._route.recover(error)
                batch.room = connection.room
                command = encoder.evalsha(batch.encoded, batch.room)
        except StoreUnavailable as unavailable:
            self._fail(batch, unavailable)
            return
        batch.retry = None
        batch.connection = connection
        connection.send(command, lambda reply: self._on_reply(batch, reply))

    def _time_out(self, batch: _InFlightBatch, grace_iterations: int) -> None:
        if batch is not self._in_flight:
            return
        if grace_iterations:
            self._loop.call_soon(self._time_out, batch, grace_iterations - 1)
        elif batch.retry is not None:
            batch.retry.cancel()
            cause = f"last reply was {batch.error!r}" if batch.error else "no connection could be made"
            message = f"no charge could be sent to Redis within {self._timeout:g} s: {cause}"
            self._fail(batch, StoreUnavailable(message, conclusive=self._is_away() or self._had_half(batch)))
        elif batch.connection is not None:
            connection = batch.connection
            self._given_up = {given_up for given_up in self._given_up if not given_up.closed}
            self._given_up.add(connection)
            batch.conclusive = self._is_away() or self._had_time(batch)
            connection.give_up(f"Redis at {connection.address} did not reply within {self._timeout:g} s")

    def _is_away(self) -> bool:
        """Whether Redis is known to be away, whatever the next batch is and however long it had.

        Under load each batch after one that failed is late already, and a caller may have large charges in every one.
        """
        silent = self._silent_since is not None and self._loop.time() - self._silent_since >= 2 * self._timeout
        return self._failing or silent

    def _had_time(self, batch: _InFlightBatch) -> bool:
        """Whether a Redis that works would have replied to BATCH by now."""
        if any(len(charge.buckets) > _LARGE for call in batch.calls for charge in call.charges):
            return False
        return self._had_half(batch)

    def _had_half(self, batch: _InFlightBatch) -> bool:
        """Whether BATCH left the queue half of the timeout ago."""
        return self._loop.time() - batch.started_at >= self._timeout / 2

    def _on_late_reply(self, batch: _InFlightBatch, reply: object) -> None:
        counted = batch.counted
        if isinstance(reply, list):
            self._silent_since = None  # it is slow, not away
            if counted:
                self._usage_observer.answered_late(counted)
        elif counted:
            self._usage_observer.unanswered(counted)


def _fail_calls(calls: Iterable[_Call], error: StoreUnavailable) -> None:
    for call in calls:
        if not call.future.done():
            call.future.set_exception(_copy(error))


def _copy(error: StoreUnavailable) -> StoreUnavailable:
    """The same error for another call: each raises its own."""
    if isinstance(error, QueueTimeout):
        return QueueTimeout(str(error), deadline=error.deadline)
    return StoreUnavailable(str(error), sent=error.sent, conclusive=error.conclusive)
