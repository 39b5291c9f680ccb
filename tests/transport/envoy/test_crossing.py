"""Calls that cross from Envoy to Python by our own module, and those that do not."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from attacks import frames
from attacks.connection import CHECK, MAX_STREAMS, Connection, data, open_call
from fixtures.served import Serve, Server
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.transport.envoy.crossing import find_module
from ratelimit_service.transport.envoy.framing import frame
from ratelimit_service.transport.envoy.paths import AUTHORIZE, EXTEND, GRANT, SETTLE, SHOULD_RATE_LIMIT
from transport.envoy.apps import embedded_app

MODULE = find_module()
pytestmark = pytest.mark.skipif(
    MODULE is None, reason="needs a C compiler and Python's headers: see crossing/README.md"
)


def has_filter(server: Server) -> bool:
    """Whether the Envoys of this server have the filter that takes calls."""
    commands = [worker.cmdline() for worker in server.workers()]
    configs = [Path(command[command.index("--config-path") + 1]).read_text() for command in commands]
    return all('"filter_name": "crossing"' in config for config in configs)


def check(server: Server, api_key: str, **options: float) -> CheckLimitResponse:
    """Decide one call."""
    return RateLimitServiceStub(server.channel).CheckLimit(CheckLimitRequest(api_key=api_key), timeout=5, **options)


@pytest.fixture(scope="module")
def server(serve_for_session: Serve) -> Server:
    """A server as it is by default."""
    return serve_for_session("envoy")


def test_calls_cross_by_the_module(server: Server) -> None:
    """It is used where it is installed."""
    assert has_filter(server)


def test_it_can_be_turned_off(own_server: Callable[..., Server]) -> None:
    """With RATELIMIT_CROSSING=false calls cross by pyvoy alone."""
    server = own_server("envoy", crossing=False)
    _, api_key = server.key()
    assert check(server, api_key).allowed
    assert not has_filter(server)


def test_calls_without_a_message_do_not_hold_it_up(server: Server) -> None:
    """More calls than it holds wait for their messages: others are answered, and so are these once they are whole."""
    _, api_key = server.key("wide")
    message = frame(CheckLimitRequest(api_key=api_key).SerializeToString())
    block = frames.header_block(CHECK)
    connections = [Connection(server.address) for _ in range(3 * 64 // MAX_STREAMS + 1)]
    try:
        for connection in connections:
            connection.drain(0.1)
            for stream in range(1, 2 * MAX_STREAMS, 2):
                assert connection.send(open_call(stream, block))
        assert check(server, api_key).allowed
        for number, connection in enumerate(connections):
            for stream in range(1, 2 * MAX_STREAMS, 2):
                parts = (message[:7], message[7:]) if number % 2 else (message, b"")
                assert connection.send(data(stream, parts[0]) + data(stream, parts[1], end=True))
            assert all(connection.wait_ended(stream, 5) for stream in range(1, 2 * MAX_STREAMS, 2))
            assert not connection.resets
            assert connection.received[frames.DATA] >= MAX_STREAMS
    finally:
        for connection in connections:
            connection.close()


@pytest.fixture(scope="module")
def wrong_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an Envoy with `wrong_app`."""
    with embedded_app("wrong_app", tmp_path_factory.mktemp("wrong")) as address:
        yield address


@pytest.fixture
def wrong(wrong_address: str) -> Iterator[grpc.Channel]:
    """A channel to it."""
    with grpc.insecure_channel(wrong_address) as channel:
        yield channel


@pytest.mark.parametrize("path", [CHECK, EXTEND, SETTLE, GRANT, AUTHORIZE])
def test_a_call_without_a_response_ends(wrong: grpc.Channel, path: str) -> None:
    """What its application does not answer, or not to the end, ends with INTERNAL at once."""
    for _ in range(3):
        with pytest.raises(grpc.RpcError) as caught:
            wrong.unary_unary(path)(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("size", [0, 1, 4_000, 12_000])
def test_messages_arrive_as_they_are(wrong: grpc.Channel, size: int) -> None:
    """What is read of a connection at once crosses so; after it comes the end."""
    message = os.urandom(size)
    assert wrong.unary_unary(SHOULD_RATE_LIMIT)(message, timeout=5) == message + b"http.disconnect"


def test_messages_in_parts_go_the_other_way(wrong: grpc.Channel) -> None:
    """Nothing of them is kept here."""
    assert wrong.unary_unary(SHOULD_RATE_LIMIT)(os.urandom(65_536), timeout=5) == b"pyvoy"


def test_few_calls_without_a_message_are_held(wrong_address: str) -> None:
    """Of many that come at once all others go on to pyvoy, whose application answers them here without a message."""
    calls, block = 13, frames.header_block(CHECK)
    connections = [Connection(wrong_address) for _ in range(16)]
    try:
        for connection in connections:
            connection.drain(0.1)
            connection.send(b"".join(open_call(stream, block) for stream in range(1, 2 * calls, 2)))
        until = time.monotonic() + 5
        while sum(len(one.ended) for one in connections) < 16 * calls - 64 and time.monotonic() < until:
            for connection in connections:
                connection.drain(0.02)
        assert 16 * calls - 64 <= sum(len(one.ended) for one in connections) < 16 * calls
    finally:
        for connection in connections:
            connection.close()
