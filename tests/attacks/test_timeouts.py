"""What is begun and not finished is ended in time. Quiet streams live on."""

import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attacks import frames
from attacks.conftest import TRANSPORTS
from attacks.connection import CHECK, STREAM, Connection, data, open_call
from fixtures.served import Server
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import StreamCheckLimitRequest
from server.certificates import Authority

BLOCK = frames.header_block(CHECK)
ALL_OF_IT = b"\0\0\1\0\0"
"""The prefix of a message of 64 KiB."""

HALF_A_BLOCK = frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0) + frames.frame(frames.HEADERS, 0, 1, BLOCK)
HALF_A_FRAME = frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0) + open_call(1, BLOCK)[:20]
AFTER_ALL_TIMEOUTS = 14
"""Seconds, longer than all timeouts."""


def test_what_is_not_finished_is_ended_and_what_is_quiet_is_not(shared_server: Callable[[str], Server]) -> None:
    """On both transports, at the same time since nearly all of it is waiting."""
    servers = [shared_server(transport) for transport in TRANSPORTS]
    with ThreadPoolExecutor(len(servers)) as pool:
        list(pool.map(end_what_is_not_finished, servers))


def end_what_is_not_finished(server: Server) -> None:
    """Calls whose message does not arrive are ended in time; streams and watches are not, unless within a message.

    So are connections that do not send the preface of HTTP/2; on the transport envoy, also those whose headers do not
    arrive. grpc.aio passes nothing of a message before it is whole, and waits for headers as long as the connection
    lives, so that a quiet stream and one within a message look the same.
    """
    envoy = server.settings.transport == "envoy"
    _, api_key = server.key("wide")
    check = frames.message(StreamCheckLimitRequest(check={"api_key": api_key}).SerializeToString())
    stream = frames.header_block(STREAM)
    with (
        Connection(server.address) as connection,
        Connection(server.address, HALF_A_BLOCK) as headers,
        Connection(server.address, HALF_A_FRAME) as half_a_frame,
        Connection(server.address, b"") as silent,
        Connection(server.address, frames.PREFACE[:10]) as half_a_preface,
        grpc.insecure_channel(server.address, (("grpc.use_local_subchannel_pool", 1),)) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        for number, sent in enumerate((b"", b"\0", ALL_OF_IT + b"x")):
            call = 2 * number + 1
            connection.send(open_call(call, BLOCK) + (data(call, sent) if sent else b""))
        connection.send(open_call(7, stream) + data(7, ALL_OF_IT + b"x"))
        connection.send(open_call(9, stream) + open_call(11, stream) + data(11, check))
        connection.drain(3)
        assert not connection.ended
        connection.drain(AFTER_ALL_TIMEOUTS - 3)
        assert connection.ended == ({1, 3, 5, 7} if envoy else {1, 3, 5})
        assert not connection.closed
        assert silent.wait_closed(1)
        assert half_a_preface.wait_closed(1)
        if envoy:
            assert headers.wait_ended(1, 2)
            assert half_a_frame.wait_ended(1, 2)
        assert watch.is_active()
        watch.cancel()
        connection.send(data(9, check, end=True) + data(11, check, end=True))
        assert connection.wait_ended(9, 5)
        assert connection.wait_ended(11, 5)
        assert connection.received[frames.DATA] >= 3
        assert not connection.closed


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_half_a_handshake_is_closed(own_server: Callable[..., Server], transport: str, tmp_path: Path) -> None:
    """Where there is TLS, a connection that sends nothing, or its first message alone, is closed as well."""
    authority = Authority(tmp_path)
    served = authority.issue("server")
    server = own_server(transport, tls_certificate=served.certificate, tls_key=served.key)
    with (
        Connection(server.address, b"") as silent,
        Connection(server.address, client_hello(authority)) as half,
    ):
        until = time.monotonic() + AFTER_ALL_TIMEOUTS
        assert half.wait_closed(until - time.monotonic())
        assert silent.wait_closed(max(until - time.monotonic(), 1))


def client_hello(authority: Authority) -> bytes:
    """What a client of TLS sends first."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.set_alpn_protocols(["h2"])
    sent = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost").do_handshake()
    return sent.read()


def test_other_protocols_are_closed(unwatched_server: Server) -> None:
    """What is not HTTP/2, as HTTP/1.1 and TLS where there is none, is not served: the connection is closed at once."""
    for greeting in (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", b"\x16\x03\x01\0\xff"):
        with Connection(unwatched_server.address, greeting + bytes(64)) as connection:
            assert connection.wait_closed(3)
