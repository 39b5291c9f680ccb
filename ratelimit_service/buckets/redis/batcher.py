"""Joins charges into scripts: one script at a time, carrying all that gathered while the one before was under way."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import hiredis

from ratelimit_service.buckets.redis.connection import Connection, ConnectionLost
from ratelimit_service.buckets.redis.script import Encoded, Encoder, decode
from ratelimit_service.decision.charge import Charge, ChargeResult
from ratelimit_service.decision.ports import StoreUnavailable


class RoundTripObserver(Protocol):
    """Told of each script that was sent with charges in it, on the hot path: it must cost next to nothing."""

    def answered(self, charges: int, seconds: float) -> None:
        """A script with so many charges was answered after so long."""
        ...

    def failed(self) -> None:
        """A script was not answered, or not as it should be."""
        ...


class Unobserved:
    """Nobody watches."""

    def answered(self, charges: int, seconds: float) -> None:
        """Nothing."""

    def failed(self) -> None:
        """Nothing."""


MAX_CHARGES = 256
"""Charges in one script, unless a single call brings more. A script of 256 keeps Redis for about a millisecond."""

MAX_BUCKETS = 2_000
"""Buckets in one script, unless a single call brings more. Lua's stack, which they all pass, holds 8,000."""

# Refusals that come before anything is executed, so that the same command may be sent again.
_NOT_EXECUTED = ("NOSCRIPT", "LOADING", "READONLY", "MASTERDOWN", "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")
# How many turns of the loop a late answer still gets: after the loop was held up for long, the timer may be looked at
# before the socket is.
_GRACE_TURNS = 3


class Route(Protocol):
    """The way to the server that has the batcher's buckets."""

    def connection(self) -> Connection | None:
        """The open link, if there is one now."""
        ...

    async def recover(self, refusal: str) -> Connection:
        """A link for the next try after the server's REFUSAL; "" when there was no link. May wait for a moment.

        The caller sends its command in the same turn of the loop in which this returns. Raises StoreUnavailable.
        """
        ...


class _Entry(NamedTuple):
    charges: Sequence[Charge]
    future: asyncio.Future[list[ChargeResult]]
    since: float


class _InFlightBatch:
    """A script under way: sent on `connection`, or about to be by `recovery`."""

    __slots__ = ("began", "connection", "encoded", "entries", "recovery", "refusal", "timer")

    def __init__(self, entries: list[_Entry], encoded: Encoded, began: float) -> None:
        self.began = began
        self.entries = entries
        self.encoded = encoded
        self.connection: Connection | None = None
        self.recovery: asyncio.Task[None] | None = None
        self.refusal = ""
        self.timer: asyncio.TimerHandle | None = None


class Batcher:
    """Charges for one server, or for one slot of a cluster.

    `timeout` in seconds bounds each call from its submission to its answer. A lone call leaves in the next turn of the
    loop.
    """

    def __init__(self, route: Route, encoder: Encoder, timeout: float, observer: RoundTripObserver) -> None:
        self._route = route
        self._encoder = encoder
        self._timeout = timeout
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Entry] = deque()
        self._busy = False  # a script is under way, or will be in the next turn
        self._in_flight: _InFlightBatch | None = None

    def submit(self, charges: Sequence[Charge]) -> asyncio.Future[list[ChargeResult]]:
        """Have CHARGES made. The future raises StoreUnavailable. One that is cancelled before it leaves is not made."""
        loop = self._loop
        future: asyncio.Future[list[ChargeResult]] = loop.create_future()
        self._queue.append(_Entry(charges, future, loop.time()))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._send_next)
        return future

    def close(self) -> None:
        """Fail everything that is not answered yet."""
        batch = self._in_flight
        entries = [*(batch.entries if batch else ()), *self._queue]
        self._queue.clear()
        if batch is not None and batch.recovery is not None:
            batch.recovery.cancel()
        if batch is not None and batch.timer is not None:
            batch.timer.cancel()
        _fail(entries, StoreUnavailable("the bucket store was closed"))

    def _send_next(self) -> None:
        entries = self._gather()
        if not entries:
            self._busy = False
            return
        try:
            encoded = self._encoder.encode([charge for entry in entries for charge in entry.charges])
        except (ValueError, OverflowError) as fault:  # a charge that breaks its contract must not stop the batcher
            _fail(entries, StoreUnavailable(f"a charge cannot be sent: {fault}"))
            self._next()
            return
        batch = self._in_flight = _InFlightBatch(entries, encoded, self._loop.time())
        batch.timer = self._loop.call_at(entries[0].since + self._timeout, self._expire, batch, _GRACE_TURNS)
        connection = self._route.connection()
        if connection is None:
            self._recover(batch, "")
        else:
            batch.connection = connection
            connection.send(self._encoder.by_sha(batch.encoded), lambda reply: self._receive(batch, reply))

    def _gather(self) -> list[_Entry]:
        entries: list[_Entry] = []
        charges = buckets = 0
        now = self._loop.time()
        while self._queue:
            entry = self._queue[0]
            charges += len(entry.charges)
            buckets += sum([len(charge.buckets) for charge in entry.charges])
            if entries and (charges > MAX_CHARGES or buckets > MAX_BUCKETS):
                break
            self._queue.popleft()
            if entry.future.done():  # whoever has given up is not charged
                continue
            if entry.since + self._timeout <= now:  # nor is who would not get the answer
                _fail([entry], StoreUnavailable(f"Redis was not reached within {self._timeout:g} s: others came first"))
                continue
            entries.append(entry)
        return entries

    def _receive(self, batch: _InFlightBatch, reply: object) -> None:
        if isinstance(reply, list):
            self._complete(batch, reply)
        elif isinstance(reply, hiredis.ReplyError) and str(reply).startswith(_NOT_EXECUTED):
            batch.connection = None
            self._recover(batch, str(reply))
        elif isinstance(reply, ConnectionLost):
            self._fail_batch(batch, reply)
        else:
            self._fail_batch(batch, StoreUnavailable(f"Redis refused the charge script: {reply}"))

    def _complete(self, batch: _InFlightBatch, reply: list[int]) -> None:
        entries = batch.entries
        try:
            outcomes = decode([charge for entry in entries for charge in entry.charges], reply)
        except (ValueError, IndexError) as fault:
            self._fail_batch(batch, StoreUnavailable(f"Redis gave an answer that makes no sense: {fault}"))
            return
        if outcomes:  # a ping has none
            self._observer.answered(len(outcomes), self._loop.time() - batch.began)
        start = 0
        for charges, future, _ in entries:
            end = start + len(charges)
            if not future.done():
                future.set_result(outcomes[start:end])
            start = end
        self._done(batch)

    def _fail_batch(self, batch: _InFlightBatch, fault: StoreUnavailable) -> None:
        self._observer.failed()
        _fail(batch.entries, fault)
        self._done(batch)

    def _done(self, batch: _InFlightBatch) -> None:
        if batch.timer is not None:
            batch.timer.cancel()
        self._in_flight = None
        self._next()

    def _next(self) -> None:
        if self._queue:
            # In the next turn: the callers that were just answered may have more.
            self._loop.call_soon(self._send_next)
        else:
            self._busy = False

    def _recover(self, batch: _InFlightBatch, refusal: str) -> None:
        batch.refusal = refusal
        batch.recovery = self._loop.create_task(self._send_again(batch, refusal))

    async def _send_again(self, batch: _InFlightBatch, refusal: str) -> None:
        encoder = self._encoder
        try:
            if refusal.startswith("NOSCRIPT"):
                connection = self._route.connection() or await self._route.recover("")
                command = encoder.by_text(batch.encoded)
            else:
                connection = await self._route.recover(refusal)
                command = encoder.by_sha(batch.encoded)
        except StoreUnavailable as fault:
            self._fail_batch(batch, fault)
            return
        batch.recovery = None
        batch.connection = connection
        connection.send(command, lambda reply: self._receive(batch, reply))

    def _expire(self, batch: _InFlightBatch, turns: int) -> None:
        if batch is not self._in_flight:
            return
        if turns:
            self._loop.call_soon(self._expire, batch, turns - 1)
        elif batch.recovery is not None:
            batch.recovery.cancel()
            why = f"it answered {batch.refusal!r}" if batch.refusal else "no connection could be made"
            self._fail_batch(batch, StoreUnavailable(f"Redis could not be asked within {self._timeout:g} s: {why}"))
        elif batch.connection is not None:
            batch.connection.close(f"Redis at {batch.connection.address} did not answer within {self._timeout:g} s")


def _fail(entries: Sequence[_Entry], fault: StoreUnavailable) -> None:
    for entry in entries:
        if not entry.future.done():
            entry.future.set_exception(StoreUnavailable(str(fault)))
