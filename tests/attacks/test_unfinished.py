"""Whoever begins and does not finish: connections, headers, messages. Quiet streams live on."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

import pytest
from hpack import Decoder

from attacks import frames
from attacks.attacked import DESCRIPTORS, Target, attacked
from attacks.conftest import StartTarget
from attacks.connection import CHECK, MAX_STREAMS, STREAM, Connection, Sender, data, open_call
from attacks.sizes import FULL, MEMORY_MB, TOLERATED

BLOCK = frames.header_block(CHECK)
ALL_OF_IT = b"\0\0\1\0\0"
"""The prefix of a message of 64 KiB."""
BODIES = 200


def hold_bodies(address: str, until: float, block: bytes) -> Counter[str]:
    """Open as many calls as are allowed, send nearly all of a message on each, and wait; then open more."""
    counts: Counter[str] = Counter()
    while time.monotonic() < until:
        with Connection(address) as connection:
            connection.drain(0.3)
            streams = range(1, 2 * min(BODIES, connection.theirs.get(frames.MAX_CONCURRENT_STREAMS, BODIES)), 2)
            for stream in streams:
                connection.send(open_call(stream, block) + data(stream, ALL_OF_IT))
            for _ in range(4):
                for stream in streams:
                    if not connection.send(data(stream, b"x" * 14_000), max(until - time.monotonic(), 0.01)):
                        break
                    counts["KiB"] += 14
                    connection.drain()
            connection.wait_closed(min(10.0, max(until - time.monotonic(), 0.0)))
            counts["ended"] += len(connection.ended)
    return counts


def test_unfinished_messages(target: Target) -> None:
    """Messages that are never finished hold little memory, and the victim is served."""
    with attacked(target, "unfinished messages", check=FULL) as report:
        report.attack(hold_bodies, BLOCK)
    assert report.memory_growth_mb <= (30 if target.transport == "envoy" and FULL else 120), report.row()


def test_unfinished_messages_of_streams(target: Target) -> None:
    """The same on streams, of each of which half a message has arrived."""
    with attacked(target, "unfinished messages of streams", check=FULL) as report:
        report.attack(hold_bodies, frames.header_block(STREAM))
    assert report.memory_growth_mb <= (30 if target.transport == "envoy" and FULL else 120), report.row()


TOO_MANY: Final = "14: too many"
"""How a call ends that gives way, UNAVAILABLE and how its message begins. One that takes too long: "4: the message"."""


class Held(Sender):
    """A connection with calls that never send a whole message."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.statuses: Counter[str] = Counter()
        """How calls ended: code and the first two words of the message."""
        self._decoder = Decoder()
        self.take(0.1)

    def begin(self, calls: int, sent: int, first: int = 1) -> None:
        """Begin CALLS, and send SENT bytes of the 64 KiB of each."""
        for stream in range(first, first + 2 * calls, 2):
            self._connection.send(open_call(stream, BLOCK))
            if sent:
                assert self.send(stream, ALL_OF_IT + b"x" * sent, 10)
        self.take()

    def take(self, seconds: float = 0.0) -> None:
        """Read what arrives within so many seconds."""
        for kind, _, stream, payload in self._connection.read(seconds):
            if kind == frames.WINDOW:
                self._more[stream] += int.from_bytes(payload, "big")
            elif kind == frames.HEADERS:
                headers = dict(self._decoder.decode(payload, raw=True))
                message = b" ".join(headers.get(b"grpc-message", b"").split()[:2])
                if b"grpc-status" in headers:
                    self.statuses[f"{headers[b'grpc-status'].decode()}: {message.decode()}"] += 1


def assert_some_give_way(held: Sequence[Held]) -> None:
    """Calls on these connections end because there are too many."""
    until = time.monotonic() + 10
    while not (found := sum((one.statuses for one in held), Counter()))[TOO_MANY]:
        assert time.monotonic() < until, found
        for one in held:
            one.take(0.05)


def test_unfinished_messages_of_a_connection_give_way(start_target: StartTarget) -> None:
    """Where a connection may begin many calls, not all of their unfinished messages are waited for."""
    target = start_target("envoy", max_concurrent_streams=64)
    with Connection(target.address) as connection:
        held = Held(connection)
        held.begin(40, 60_000)
        assert_some_give_way([held])


@pytest.mark.parametrize("target", ["envoy"], indirect=True)
def test_unfinished_messages_of_many_connections_give_way(target: Target) -> None:
    """Those of several connections, none of which has too many, are too many together."""
    with ExitStack() as stack:
        held = [Held(stack.enter_context(Connection(target.address))) for _ in range(10)]
        for one in held:
            one.begin(MAX_STREAMS, 60_000)
        assert_some_give_way(held)


def test_calls_without_a_message_give_way(target: Target) -> None:
    """Calls that have begun and sent nothing are too many as well, after a second."""
    with ExitStack() as stack:
        held = [Held(stack.enter_context(Connection(target.address))) for _ in range(30)]
        for one in held:
            one.begin(MAX_STREAMS - 2, 0)
            time.sleep(0.06)  # more at once would be refused under overload
        time.sleep(1)
        for one in held:
            one.begin(2, 0, first=2 * MAX_STREAMS - 3)
        assert_some_give_way(held)


def wait_idle(address: str, until: float) -> Counter[str]:
    """Hold connections that do nothing."""
    held = []
    try:
        for _ in range(700 if FULL else 200):
            held.append(Connection(address))
            if time.monotonic() >= until:
                break
        time.sleep(max(0.0, until - time.monotonic()))
    finally:
        for connection in held:
            connection.close()
    return Counter({"connections": len(held)})


def test_idle_connections(target: Target) -> None:
    """2,000 connections that do nothing, or 600 in CI, cost some memory each, and their descriptors come back."""
    bound_mb = 2_100 * 0.1 if FULL else 600 * 0.1
    with attacked(target, "idle connections", check=False) as report:
        report.attack(wait_idle)
    assert report.memory_growth_mb < bound_mb, report.row()
    assert not report.during.errors, report.row()
    assert not FULL or report.during.p99_ms <= report.p99_bar_ms, report.row()
    assert report.memory_after.descriptors <= report.memory_before.descriptors + DESCRIPTORS, report.row()


MAX_OPEN = 21_000
"""Connections that are open at a time: those that are closed are so for the server once it gets to them."""


def open_and_close(address: str, until: float) -> Counter[str]:
    """Open connections, and close them at once."""
    counts: Counter[str] = Counter()
    most = 17_000 if FULL else 300
    while time.monotonic() < until and counts["connections"] < most:
        try:
            Connection(address).close()
        except OSError:
            counts["refused"] += 1
        counts["connections"] += 1
    return counts


def test_connections_that_are_opened_and_closed(target: Target) -> None:
    """A burst of 50,000, or a thousand in CI, costs nobody an answer, and leaves no descriptor behind.

    It is accepted as fast as two cores can, thousands in a second, and whoever is served meanwhile waits as long as
    that takes: test_many_connections has as many within half a minute, as in docs/security.md.
    """
    with attacked(target, "burst of connections", check=False) as report:
        report.attack(open_and_close)
    assert report.during.errors.total() <= TOLERATED * report.during.calls, report.row()
    assert report.peak.descriptors <= report.memory_before.descriptors + MAX_OPEN, report.row()
    assert report.memory_after.descriptors <= report.memory_before.descriptors + DESCRIPTORS, report.row()
    assert report.memory_growth_mb <= MEMORY_MB + 30, report.row()
