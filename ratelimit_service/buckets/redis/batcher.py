"""Batches charges: one script run at a time, with all the charges that were queued while the last one was in flight."""

import asyncio
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Final, NamedTuple, Protocol, cast

import hiredis

from ratelimit_service.buckets.health import UNWATCHED, Watcher
from ratelimit_service.buckets.redis.abandoned import end_of
from ratelimit_service.buckets.redis.connection import Connection, ConnectionLost
from ratelimit_service.buckets.redis.observers import Observers
from ratelimit_service.buckets.redis.room import Room
from ratelimit_service.buckets.redis.script import Encoded, Encoder, decode, usage_key
from ratelimit_service.decision.charge import NO_ROOM, Charge, ChargeResult
from ratelimit_service.decision.ports import QueueTimeout, StoreUnavailable

MAX_CHARGES = 256
"""Charges in one script run, unless a single call has more. A run with 256 occupies Redis for about a millisecond."""

MAX_SIZE = 512
"""Buckets and series in one script run, unless a single charge has more. A run with so many takes Redis 4 ms, in which
nobody else is served. They all go through Lua's stack, which holds 8,000."""

_LARGE = 64
"""Buckets of a charge that may take Redis so long that a missing reply to it does not show that Redis is away."""

MARGIN: Final = 0.005
"""Seconds before its deadline at which a call fails that has no result yet: what is decided without the store is to
reach the caller in time. A fifth of its time if that is more, and at most half of it."""

_TICK: Final = 0.002  # seconds between two checks of what waits while there is no reply
_MAX_STEP: Final = 2 * _TICK  # what one check adds to the time waited for a reply, if the loop stood still

_MIN_WAIT: Final = 0.005  # seconds that a store keeps the queue waiting if calls that time out there are its fault

# Error replies that come before anything is executed, so that the same command may be sent again.
_NOT_EXECUTED = (
    *("NOSCRIPT", "LOADING", "READONLY", "MASTERDOWN", "NOREPLICAS", "BUSY"),
    *("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"),
)
# In an error that the script raised: one bucket is damaged, and the server is well.
_BY_SCRIPT = "user_script"
# Iterations of the loop that a late reply still gets: after the loop was blocked for long, it may run the timer before
# it reads the socket.
_GRACE_ITERATIONS = 3


class Route(Protocol):
    """Connects to the server that has the batcher's buckets."""

    @property
    def node(self) -> Hashable:
        """The node that makes the charges, as far as is known."""
        ...

    def connection(self) -> Connection | None:
        """The open connection, if there is one now."""
        ...

    async def recover(self, error: str) -> Connection:
        """A connection for the next try after an ERROR reply; "" when there was no connection. May wait for a moment.

        The caller sends its command in the same iteration of the loop in which this returns. Raises StoreUnavailable.
        """
        ...


class QueuedCall(NamedTuple):
    """It fails once `expires`, a monotonic time, has passed; that is before its caller's deadline, if `hurried`."""

    charges: Sequence[Charge]
    future: asyncio.Future[list[ChargeResult]]
    submitted_at: float
    expires: float
    hurried: bool


class InFlightBatch:
    """The calls of one script run: sent on `connection`, or about to be sent by `retry`.

    `error` is the reply to the last attempt, if that was an error, and `redirection` the last one to a node that does
    not own the slot yet. `room` is what the server had room for then. `waited` is how long the store has kept this
    process waiting, as seen by a loop that was free to read a reply; `seen_at` is when that was last added up. `failed`
    are the calls that failed while it was in flight.
    """

    __slots__ = (
        *("calls", "connection", "encoded", "error", "failed", "redirection", "retry", "room", "seen_at"),
        *("started_at", "timer", "waited"),
    )

    @property
    def charges(self) -> list[Charge]:
        """The charges of all calls."""
        return [charge for call in self.calls for charge in call.charges]

    def __init__(self, calls: list[QueuedCall], encoded: Encoded, started_at: float) -> None:
        self.started_at = self.seen_at = started_at
        self.calls = calls
        self.encoded = encoded
        self.failed: list[QueuedCall] = []
        self.connection: Connection | None = None
        self.retry: asyncio.Task[None] | None = None
        self.error = ""
        self.redirection = ""
        self.room = Room.PLENTY
        self.waited = 0.0
        self.timer: asyncio.TimerHandle | None = None

    def see(self, now: float) -> None:
        """Add up what was waited until NOW."""
        self.waited += min(now - self.seen_at, _MAX_STEP)
        self.seen_at = now


class Batcher:
    """Sends the charges for one server, or for one slot of a cluster.

    `tag` is that of the keys in which usage is counted. `timeout` in seconds bounds each call from its submission to
    its result. A single call is sent in the next iteration of the loop. `watcher` gets reports of the route's node.
    """

    def __init__(self, route: Route, encoder: Encoder, tag: bytes, timeout: float, observers: Observers) -> None:
        self.watcher: Watcher = UNWATCHED
        self._route = route
        self._encoder = encoder
        self._usage = usage_key(tag)
        self._timeout = timeout
        self._tick_seconds = min(_TICK, timeout / 2)
        self._observer = observers.round_trips
        self._usage_observer = observers.usage
        self._observe_levels = observers.levels.observe
        self._observe_reservations = observers.reservations.observe
        self._loop = asyncio.get_running_loop()
        self._queue: deque[QueuedCall] = deque()
        self._busy = False  # a batch is in flight, or will be in the next iteration
        self._in_flight: InFlightBatch | None = None
        self._failing = False  # the last batch failed: what waited for it is late because of the store
        self._waited = 0.0  # what the last batch had waited for its reply
        self._silent_since: float | None = None  # when the first batch after the last reply was sent
        self._given_up: set[Connection] = set()  # open for late replies

    def submit(self, charges: Sequence[Charge], deadline: float | None = None) -> asyncio.Future[list[ChargeResult]]:
        """Queue one call's CHARGES. The future raises StoreUnavailable. If cancelled before the send, none is made.

        It has its result, or raises, when the call times out, or MARGIN before its DEADLINE, a monotonic time in
        seconds. It raises QueueTimeout if the call was not sent until then although the store replies: it was the
        queue that took its time.
        """
        loop = self._loop
        future: asyncio.Future[list[ChargeResult]] = loop.create_future()
        now = monotonic()
        seconds, hurried = self._timeout, False
        if deadline is not None and (patience := patience_of(deadline - now)) < seconds:
            seconds, hurried = patience, True
        self._queue.append(QueuedCall(charges, future, now, now + seconds, hurried))
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
            encoded = self._encode(calls)
        except (ValueError, OverflowError) as error:  # a charge that breaks its contract must not stop the batcher
            _fail_calls(calls, StoreUnavailable(f"a charge cannot be sent: {error}"))
            self._schedule_next()
            return
        now = monotonic()
        batch = self._in_flight = InFlightBatch(calls, encoded, now)
        if self._silent_since is None:
            self._silent_since = now
        self._schedule_tick(batch)
        connection = self._route.connection()
        if connection is None:
            self._retry(batch, "")
        else:
            self._send(batch, connection, self._encoder.evalsha(encoded, connection.room), connection.room)

    def _encode(self, calls: Sequence[QueuedCall]) -> Encoded:
        return self._encoder.encode([charge for call in calls for charge in call.charges], self._usage)

    def _send(self, batch: InFlightBatch, connection: Connection, command: bytes, room: Room) -> None:
        batch.connection = connection
        batch.room = room
        connection.send(command, lambda reply: self._on_reply(batch, reply))

    def _take_from_queue(self) -> list[QueuedCall]:
        calls: list[QueuedCall] = []
        charges = size = 0
        now = monotonic()
        while self._queue:
            call = self._queue[0]
            if call.future.done():  # a call that was cancelled, or has failed, is not charged
                self._queue.popleft()
                continue
            if call.expires <= now:  # nor is one that is too late for its result
                self._queue.popleft()
                _fail_calls([call], self._queue_timeout(call, self._waited))
                continue
            charges += len(call.charges)
            for buckets, _, _, counted, _, _ in call.charges:
                size += len(buckets) + len(counted)
            if calls and (charges > MAX_CHARGES or size > MAX_SIZE):
                break
            self._queue.popleft()
            calls.append(call)
        return calls

    def _queue_timeout(self, call: QueuedCall, waited: float) -> StoreUnavailable:
        """The error of a call that was not sent in time. WAITED: what the batch before it had waited for its reply."""
        budget = call.expires - call.submitted_at
        if self._failing or waited >= max(budget / 2, _MIN_WAIT):
            return StoreUnavailable(f"Redis kept the calls before this one waiting for {waited:.3g} s")
        if call.hurried:
            return QueueTimeout("the deadline passed in the queue for Redis", deadline=True)
        return QueueTimeout(f"timed out after {self._timeout:g} s in the queue for Redis", deadline=False)

    def _on_reply(self, batch: InFlightBatch, reply: object) -> None:
        if isinstance(reply, list):
            self._complete(batch, reply)
        elif isinstance(reply, hiredis.ReplyError) and str(reply).startswith(_NOT_EXECUTED):
            batch.connection = None
            self._retry(batch, str(reply))
        elif isinstance(reply, hiredis.ReplyError) and str(reply).startswith("OOM") and batch.room is not Room.FULL:
            cast("Connection", batch.connection).room = batch.room = Room.FULL
            batch.connection = None
            self._retry(batch, str(reply))
        elif isinstance(reply, ConnectionLost):
            reply.late = lambda late: self._on_late_reply(batch, late)
            self._fail(batch, StoreUnavailable(str(reply), sent=True), batch.connection, conclusive=reply.conclusive)
        else:
            error = StoreUnavailable(f"Redis rejected the charge script: {reply}")
            self._fail(batch, error, conclusive=_BY_SCRIPT not in str(reply))

    def _complete(self, batch: InFlightBatch, reply: list[int]) -> None:
        calls, charges = batch.calls, batch.charges
        try:
            results = decode(charges, reply)
        except (ValueError, IndexError) as error:
            self._fail(batch, StoreUnavailable(f"Redis sent an invalid reply: {error}", sent=True))
            return
        now = monotonic()
        batch.see(now)
        self._failing = False
        self._silent_since = None
        if batch.room:
            self._observer.refused(sum(limit.wait_us == NO_ROOM for made in results for limit in made.limit_results))
        started = batch.started_at
        if results:  # a ping has none
            self._observer.answered(len(results), now - started, started - calls[0].submitted_at)
            self._observe_levels(charges, results, now)
            if batch.encoded.reserves:
                self._observe_reservations(charges, results)
        else:
            self._observer.took(now - started)
        if self.watcher.watching or batch.waited >= self._tick_seconds:
            self.watcher.answered(self._route.node, 0.0 if _is_large(batch) else batch.waited)
        start = 0
        for submitted, future, _, _, _ in calls:
            end = start + len(submitted)
            if not future.done():
                future.set_result(results[start:end])
            else:
                self._end_reservations(submitted, results[start:end])
            start = end
        self._count_late(batch.failed)
        self._finish(batch)

    def _fail(
        self,
        batch: InFlightBatch,
        error: StoreUnavailable,
        cause: object = None,
        *,
        conclusive: bool = True,
    ) -> None:
        """Fail the calls of BATCH. CAUSE is the same for all batches that fail for one reason, as one connection."""
        self._failing = conclusive
        self._observer.failed()
        if conclusive:
            self.watcher.failed(self._route.node, str(error), cause if cause is not None else error)
        _fail_calls(batch.calls, error)
        self._finish(batch)

    def _finish(self, batch: InFlightBatch) -> None:
        if batch.timer is not None:
            batch.timer.cancel()
        self._waited = batch.waited
        self._in_flight = None
        self._schedule_next()

    def _schedule_next(self) -> None:
        if self._queue:
            # In the next iteration: the callers that just got their results may submit more.
            self._loop.call_soon(self._send_batch)
        else:
            self._busy = False

    def _retry(self, batch: InFlightBatch, error: str) -> None:
        batch.error = error
        if not error.startswith(("NOSCRIPT", "OOM")):
            batch.redirection = error if error.startswith("ASK") else ""
        batch.retry = self._loop.create_task(self._resend(batch, error))

    async def _resend(self, batch: InFlightBatch, error: str) -> None:
        try:
            if error.startswith(("NOSCRIPT", "OOM")):  # to the same server
                connection = self._route.connection() if not batch.redirection else None
                connection = connection or await self._route.recover(batch.redirection)
            else:
                connection = await self._route.recover(error)
        except StoreUnavailable as unavailable:
            batch.retry = None
            self._fail(batch, unavailable, unavailable)
            return
        batch.retry = None
        self._drop_failed(batch)
        # Still the script that a server out of memory runs, whatever it was found to have room for meanwhile.
        room = batch.room if batch.room is Room.FULL else connection.room
        encode = self._encoder.eval if error.startswith("NOSCRIPT") else self._encoder.evalsha
        self._send(batch, connection, encode(batch.encoded, room), room)

    def _drop_failed(self, batch: InFlightBatch) -> None:
        """Send nothing for calls that failed meanwhile: they were decided without the store."""
        calls = [call for call in batch.calls if not call.future.done()]
        if len(calls) < len(batch.calls):
            if counted := _counted(batch.failed):
                self._usage_observer.unanswered(counted)
            batch.calls, batch.failed = calls, []
            batch.encoded = self._encode(calls)

    def _schedule_tick(self, batch: InFlightBatch) -> None:
        due = monotonic() + self._tick_seconds
        batch.timer = self._loop.call_later(self._tick_seconds, self._tick, batch, due, _GRACE_ITERATIONS)

    def _tick(self, batch: InFlightBatch, due: float, grace_iterations: int) -> None:
        """Look at what waits while there is no reply to BATCH."""
        if batch is not self._in_flight:
            return
        now = monotonic()
        if now - due > self._tick_seconds and grace_iterations:
            self._loop.call_soon(self._tick, batch, due, grace_iterations - 1)
            return
        batch.see(now)
        if batch.waited + self._tick_seconds / 2 >= self._timeout:
            self._give_up(batch)
            return
        self._expire(batch, now)
        self._schedule_tick(batch)
        if not _is_large(batch):
            self.watcher.unanswered(self._route.node, batch.waited)

    def _expire(self, batch: InFlightBatch, now: float) -> None:
        """Fail the calls whose time is over, in BATCH, which goes on, and in the queue."""
        sent = batch.connection is not None
        expired = False
        for call in batch.calls:
            if call.expires <= now and not call.future.done():
                budget = call.expires - call.submitted_at
                _fail_calls([call], StoreUnavailable(f"{self._silent(batch)} within {budget:.3g} s", sent=sent))
                expired = True
                if sent:
                    batch.failed.append(call)
        for call in self._queue:
            if call.expires <= now and not call.future.done():
                _fail_calls([call], self._queue_timeout(call, batch.waited))
        if expired:
            self._observer.awaited(now - batch.started_at)

    def _silent(self, batch: InFlightBatch) -> str:
        if batch.connection is not None:
            return f"Redis at {batch.connection.address} did not reply"
        return f"no charge could be sent to Redis ({batch.error or 'no connection could be made'})"

    def _give_up(self, batch: InFlightBatch) -> None:
        """Fail BATCH, which has waited for as long as a call may take."""
        self._observer.took(monotonic() - batch.started_at)
        reason = f"{self._silent(batch)} within {self._timeout:g} s"
        if batch.retry is not None:
            batch.retry.cancel()
            self._fail(batch, StoreUnavailable(reason))
        elif batch.connection is not None:
            connection = batch.connection
            self._given_up = {given_up for given_up in self._given_up if not given_up.closed}
            self._given_up.add(connection)
            connection.give_up(reason, conclusive=self._is_away() or not _is_large(batch))

    def _is_away(self) -> bool:
        """Whether Redis is known to be away, whatever the next batch is.

        A caller may have large charges in every one.
        """
        silent = self._silent_since is not None and monotonic() - self._silent_since >= 2 * self._timeout
        return self._failing or silent

    def _on_late_reply(self, batch: InFlightBatch, reply: object) -> None:
        if isinstance(reply, list):
            self._silent_since = None  # it is slow, not away
            self._count_late(batch.calls)
            if batch.encoded.reserves:
                charges = batch.charges
                with suppress(ValueError, IndexError):
                    results = decode(charges, reply)
                    self._observe_reservations(charges, results)
                    self._end_reservations(charges, results)
        elif counted := _counted(batch.calls):
            self._usage_observer.unanswered(counted)

    def _end_reservations(self, charges: Sequence[Charge], results: Sequence[ChargeResult]) -> None:
        """End what these charges have reserved: their callers have left, or were answered without the store.

        If that fails, the holds end by themselves.
        """
        ends = [end for pair in zip(charges, results, strict=True) if (end := end_of(*pair)) is not None]
        for end in ends:
            self.submit((end,)).add_done_callback(_ignore)
        if ends:
            self._observer.ended(len(ends))

    def _count_late(self, calls: Sequence[QueuedCall]) -> None:
        """Count the charges of these calls, which were made, but decided without the store."""
        if calls and (counted := _counted(calls)):
            self._usage_observer.answered_late(counted)


def patience_of(left: float) -> float:
    """Seconds for which a call waits for the store, if its caller waits for LEFT seconds; 0 or less if that is."""
    return max(min(left - MARGIN, left * 0.8), left / 2)


def _ignore(future: asyncio.Future[list[ChargeResult]]) -> None:
    """Take note of an error, so that it is not reported as one that nobody noticed."""
    if not future.cancelled():
        future.exception()


def _counted(calls: Sequence[QueuedCall]) -> list[Charge]:
    """The charges that the script counts."""
    return [charge for call in calls for charge in call.charges if charge.counted]


def _is_large(batch: InFlightBatch) -> bool:
    """Whether Redis may need long for BATCH although it is well."""
    return any(len(charge.buckets) > _LARGE for call in batch.calls for charge in call.charges)


def _fail_calls(calls: Iterable[QueuedCall], error: StoreUnavailable) -> None:
    for call in calls:
        if not call.future.done():
            call.future.set_exception(_copy(error))


def _copy(error: StoreUnavailable) -> StoreUnavailable:
    """The same error for another call: each raises its own."""
    if isinstance(error, QueueTimeout):
        return QueueTimeout(str(error), deadline=error.deadline)
    return StoreUnavailable(str(error), sent=error.sent)
