"""Callers who try to fill the log."""

import time

import pytest

from attacks import frames
from attacks.connection import Connection, data, open_call, reset
from fixtures.served import Server

MANAGE = "/ratelimit.v1.KeyAdminService/ManageKey"
HEALTH = "/grpc.health.v1.Health/Check"
CALLS = 150
MAX_BYTES = 40_000
MAX_LINES = 10


@pytest.mark.parametrize(
    ("path", "message", "cancelled"),
    [
        (MANAGE, b"", False),
        (MANAGE, None, True),
        ("/ratelimit.v1.RateLimitService/CheckLimit", b"", False),
        (HEALTH, b"\xff" * 50, False),
        ("/grpc.health.v1.Health/Watch", b"\xff" * 50, False),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", b"\xff" * 50, False),
    ],
)
def test_what_strangers_send_does_not_fill_the_log(
    unwatched_server: Server, path: str, message: bytes | None, cancelled: bool
) -> None:
    """Headers that are no text, messages that are none, cancelled calls: few lines, and none with what was sent."""
    server = unwatched_server
    block = frames.header_block(path, x_odd="\xff" * 1_000, authorization="Bearer \xffsecret")
    before = len(server.output)
    stream = 1
    for _ in range(CALLS // 15):
        with Connection(server.address) as connection:
            for stream in range(1, 31, 2):
                connection.send(open_call(stream, block))
                if message is not None:
                    connection.send(data(stream, frames.message(message), end=True))
                if cancelled:
                    time.sleep(0.002)
                    connection.send(reset(stream))
            if not cancelled:
                assert connection.wait_ended(stream, 10)
    time.sleep(0.3)
    written = server.output[before:]
    assert len(written) < MAX_BYTES, written[:2_000]
    assert "secret" not in written


def test_headers_that_the_library_cannot_read_do_not_fill_the_log(unwatched_server: Server) -> None:
    """The gRPC library would write a line for each, past the bounds of our log: as many as anybody sends."""
    server = unwatched_server
    before = len(server.output)
    for path in ("/ratelimit.v1.RateLimitService/CheckLimit", HEALTH):
        for header in ("grpc-encoding", "grpc-timeout", "grpc-previous-rpc-attempts", "lb-cost-bin"):
            block = frames.header_block(path, **{header: "none"})
            with Connection(server.address) as connection:
                for stream in range(1, 31, 2):
                    connection.send(open_call(stream, block) + data(stream, frames.message(b""), end=True))
                assert connection.wait_ended(29, 10)
    time.sleep(0.3)
    written = server.output[before:]
    assert written.count("\n") <= MAX_LINES, written[:2_000]
