"""The faults of the proxy are what they are named."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import redis

from faults.proxy import FaultProxy
from fixtures.valkey import StartValkey

Connect = Callable[[], "Line"]


@pytest.fixture
def proxy(valkey: StartValkey) -> Iterator[FaultProxy]:
    """A proxy to a Valkey of the test's own."""
    with FaultProxy(valkey().port) as running:
        yield running


@pytest.fixture
def connect(proxy: FaultProxy) -> Iterator[Connect]:
    """Opens connections through the proxy."""
    with ExitStack() as stack:

        def connected() -> Line:
            return Line(stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port), timeout=1)))

        yield connected


class Line:
    """A connection that increments a counter, and knows for how long it waited."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def count(self) -> tuple[bytes, float]:
        """The reply to an INCR, empty when the connection ended in its place, and the seconds that it took."""
        began = time.monotonic()
        self._socket.sendall(b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n")
        return self._socket.recv(100), time.monotonic() - began


def counted(proxy: FaultProxy) -> int:
    """What the store has counted, asked without the proxy."""
    with redis.Redis(port=proxy.target_port) as client:
        return int(client.get("n") or 0)


def test_delay_and_jitter(proxy: FaultProxy, connect: Connect) -> None:
    """Each reply is late by the delay, and by no more than the jitter besides."""
    line = connect()
    assert line.count()[1] < 0.05
    proxy.inject(delay=0.1)
    assert 0.1 <= line.count()[1] < 0.3
    proxy.inject(delay=0.05, jitter=0.1)
    waits = [line.count()[1] for _ in range(10)]
    assert min(waits) >= 0.05
    assert max(waits) - min(waits) > 0.02
    proxy.heal()
    assert line.count()[1] < 0.05


def test_a_lost_reply_is_to_a_command_that_was_executed(proxy: FaultProxy, connect: Connect) -> None:
    """The connection ends in place of the reply, and the store has counted."""
    line = connect()
    line.count()
    proxy.lose_next_reply()
    assert line.count()[0] == b""
    assert (counted(proxy), proxy.lost) == (2, [b":2\r\n"])
    assert connect().count()[0] == b":3\r\n"


def test_a_share_of_replies_is_lost(proxy: FaultProxy, connect: Connect) -> None:
    """About as many as the share says, and each was executed."""
    proxy.inject(lost=0.2)
    replies = [connect().count()[0] for _ in range(100)]
    assert 5 < replies.count(b"") == len(proxy.lost) < 50
    assert counted(proxy) == 100


def test_half_open(proxy: FaultProxy, connect: Connect) -> None:
    """New connections are accepted and commands executed, but nothing comes back, not even an end."""
    line = connect()
    line.count()
    proxy.inject(half_open=True)
    with pytest.raises(TimeoutError):
        line.count()
    other = connect()
    with pytest.raises(TimeoutError):
        other.count()
    assert counted(proxy) == 3
    proxy.heal()
    with pytest.raises(TimeoutError):
        line.count()
    assert connect().count()[0] == b":5\r\n"


def test_reset(proxy: FaultProxy, connect: Connect) -> None:
    """Connections end by a reset, and new ones can be made."""
    line = connect()
    line.count()
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        line.count()
    assert connect().count()[0] == b":2\r\n"


def test_bandwidth(proxy: FaultProxy) -> None:
    """Replies take as long as their bytes."""
    with redis.Redis(port=proxy.port) as client:
        client.set("large", b"x" * 20_000)
        proxy.inject(bandwidth=100_000)
        began = time.monotonic()
        assert len(client.get("large") or b"") == 20_000
        assert 0.2 <= time.monotonic() - began < 1
