"""Joins charges into scripts: one script at a time, carrying all that gathered while the one before was under way."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import hiredis

from ratelimit_service.buckets.redis.connection import Link, LinkLost
from ratelimit_service.buckets.redis.script import Encoded, Encoder, decode
from ratelimit_service.decision.charge import Charge, Outcome
from ratelimit_service.decision.ports import StoreUnavailable


class TripObserver(Protocol):
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


MOST_CHARGES = 256
"""Charges in one script, unless a single call brings more. A script of 256 keeps Redis for about a millisecond."""

MOST_BUCKETS = 2_000
"""Buckets in one script, unless a single call brings more. Lua's stack, which they all pass, holds 8,000."""

# Refusals that come before anything is executed, so that the same command may be sent again.
_NOT_EXECUTED = ("NOSCRIPT", "LOADING", "READONLY", "MASTERDOWN", "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")
# How many turns of the loop a late answer still gets: after the loop was held up for long, the timer may be looked at
# before the socket is.
_GRACE_TURNS = 3


class Route(Protocol):
    """The way to the server that has the lane's buckets."""

    def link(self) -> Link | None:
        """The open link, if there is one now."""
        ...

    async def recover(self, refusal: str) -> Link:
        """A link for the next try after the server's REFUSAL; "" when there was no link. May wait for a moment.

        The caller sends its command in the same turn of the loop in which this returns. Raises StoreUnavailable.
        """
        ...


class _Entry(NamedTuple):
    charges: Sequence[Charge]
    future: asyncio.Future[list[Outcome]]
    since: float


class _Flight:
    """A script under way: sent on `link`, or about to be by `recovery`."""

    __slots__ = ("began", "encoded", "entries", "link", "recovery", "refusal", "timer")

    def __init__(self, entries: list[_Entry], encoded: Encoded, began: float) -> None:
        self.began = began
        self.entries = entries
        self.encoded = encoded
        self.link: Link | None = None
        self.recovery: asyncio.Task[None] | None = None
        self.refusal = ""
        self.timer: asyncio.TimerHandle | None = None


class Lane:
    """Charges for one server, or for one slot of a cluster.

    `timeout` in seconds bounds each call from its submission to its answer. A lone call leaves in the next turn of the
    loop.
    """

    def __init__(self, route: Route, encoder: Encoder, timeout: float, observer: TripObserver) -> None:
        self._route = route
        self._encoder = encoder
        self._timeout = timeout
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Entry] = deque()
        self._busy = False  # a script is under way, or will be in the next turn
        self._flight: _Flight | None = None

    def submit(self, charges: Sequence[Charge]) -> asyncio.Future[list[Outcome]]:
        """Have CHARGES made. The future raises StoreUnavailable. One that is cancelled before it leaves is not made."""
        loop = self._loop
        future: asyncio.Future[list[Outcome]] = loop.create_future()
        self._queue.append(_Entry(charges, future, loop.time()))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._depart)
        return future

    def close(self) -> None:
        """Fail everything that is not answered yet."""
        flight = self._flight
        entries = [*(flight.entries if flight else ()), *self._queue]
        self._queue.clear()
        if flight is not None and flight.recovery is not None:
            flight.recovery.cancel()
        if flight is not None and flight.timer is not None:
            flight.timer.cancel()
        _fail(entries, StoreUnavailable("the bucket store was closed"))

    def _depart(self) -> None:
        entries = self._gather()
        if not entries:
            self._busy = False
            return
        try:
            encoded = self._encoder.encode([charge for entry in entries for charge in entry.charges])
        except (ValueError, OverflowError) as fault:  # a charge that breaks its contract must not stop the lane
            _fail(entries, StoreUnavailable(f"a charge cannot be sent: {fault}"))
            self._next()
            return
        flight = self._flight = _Flight(entries, encoded, self._loop.time())
        flight.timer = self._loop.call_at(entries[0].since + self._timeout, self._expire, flight, _GRACE_TURNS)
        link = self._route.link()
        if link is None:
            self._recover(flight, "")
        else:
            flight.link = link
            link.send(self._encoder.by_sha(flight.encoded), lambda reply: self._arrive(flight, reply))

    def _gather(self) -> list[_Entry]:
        entries: list[_Entry] = []
        charges = buckets = 0
        now = self._loop.time()
        while self._queue:
            entry = self._queue[0]
            charges += len(entry.charges)
            buckets += sum([len(charge.buckets) for charge in entry.charges])
            if entries and (charges > MOST_CHARGES or buckets > MOST_BUCKETS):
                break
            self._queue.popleft()
            if entry.future.done():  # whoever has given up is not charged
                continue
            if entry.since + self._timeout <= now:  # nor is who would not get the answer
                _fail([entry], StoreUnavailable(f"Redis was not reached within {self._timeout:g} s: others came first"))
                continue
            entries.append(entry)
        return entries

    def _arrive(self, flight: _Flight, reply: object) -> None:
        if isinstance(reply, list):
            self._land(flight, reply)
        elif isinstance(reply, hiredis.ReplyError) and str(reply).startswith(_NOT_EXECUTED):
            flight.link = None
            self._recover(flight, str(reply))
        elif isinstance(reply, LinkLost):
            self._crash(flight, reply)
        else:
            self._crash(flight, StoreUnavailable(f"Redis refused the charge script: {reply}"))

    def _land(self, flight: _Flight, reply: list[int]) -> None:
        entries = flight.entries
        try:
            outcomes = decode([charge for entry in entries for charge in entry.charges], reply)
        except (ValueError, IndexError) as fault:
            self._crash(flight, StoreUnavailable(f"Redis gave an answer that makes no sense: {fault}"))
            return
        if outcomes:  # a ping has none
            self._observer.answered(len(outcomes), self._loop.time() - flight.began)
        start = 0
        for charges, future, _ in entries:
            end = start + len(charges)
            if not future.done():
                future.set_result(outcomes[start:end])
            start = end
        self._done(flight)

    def _crash(self, flight: _Flight, fault: StoreUnavailable) -> None:
        self._observer.failed()
        _fail(flight.entries, fault)
        self._done(flight)

    def _done(self, flight: _Flight) -> None:
        if flight.timer is not None:
            flight.timer.cancel()
        self._flight = None
        self._next()

    def _next(self) -> None:
        if self._queue:
            # In the next turn: the callers that were just answered may have more.
            self._loop.call_soon(self._depart)
        else:
            self._busy = False

    def _recover(self, flight: _Flight, refusal: str) -> None:
        flight.refusal = refusal
        flight.recovery = self._loop.create_task(self._send_again(flight, refusal))

    async def _send_again(self, flight: _Flight, refusal: str) -> None:
        encoder = self._encoder
        try:
            if refusal.startswith("NOSCRIPT"):
                link = self._route.link() or await self._route.recover("")
                command = encoder.by_text(flight.encoded)
            else:
                link = await self._route.recover(refusal)
                command = encoder.by_sha(flight.encoded)
        except StoreUnavailable as fault:
            self._crash(flight, fault)
            return
        flight.recovery = None
        flight.link = link
        link.send(command, lambda reply: self._arrive(flight, reply))

    def _expire(self, flight: _Flight, turns: int) -> None:
        if flight is not self._flight:
            return
        if turns:
            self._loop.call_soon(self._expire, flight, turns - 1)
        elif flight.recovery is not None:
            flight.recovery.cancel()
            why = f"it answered {flight.refusal!r}" if flight.refusal else "no connection could be made"
            self._crash(flight, StoreUnavailable(f"Redis could not be asked within {self._timeout:g} s: {why}"))
        elif flight.link is not None:
            flight.link.close(f"Redis at {flight.link.endpoint} did not answer within {self._timeout:g} s")


def _fail(entries: Sequence[_Entry], fault: StoreUnavailable) -> None:
    for entry in entries:
        if not entry.future.done():
            entry.future.set_exception(StoreUnavailable(str(fault)))
