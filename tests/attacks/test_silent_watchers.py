"""Watches of health: those who read nothing hold nobody up."""

import signal
import socket
import struct
import time
from collections.abc import Callable

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes

from attacks import frames
from attacks.connection import Connection, data, open_call
from fixtures.served import Server

WATCH = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "x"),
    (":path", "/grpc.health.v1.Health/Watch"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_a_server_drains_beside_watchers_who_do_not_read(own_server: Callable[..., Server], transport: str) -> None:
    """With 50 watches that leave the server no window to write in, it still drains, and is not killed for it."""
    server = own_server(transport, drain_timeout=3)
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port))) as wire:
        connection = H2Connection(H2Configuration(header_encoding="utf-8"))
        connection.initiate_connection()
        connection.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        message = health_pb2.HealthCheckRequest(service="").SerializeToString()
        for _ in range(50):
            stream = connection.get_next_available_stream_id()
            connection.send_headers(stream, WATCH)
            connection.send_data(stream, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
        wire.sendall(connection.data_to_send())
        time.sleep(1)
        assert server.stop() == 0
    if transport == "grpcio":
        assert "drained" in server.output


def test_a_watcher_who_does_not_read(own_server: Callable[..., Server]) -> None:
    """It does not keep others from learning that the server drains."""
    server = own_server("grpcio")
    closed_window = frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
    watching = frames.header_block("/grpc.health.v1.Health/Watch")
    with (
        Connection(server.address, closed_window) as unread,
        grpc.insecure_channel(server.address, (("grpc.use_local_subchannel_pool", 1),)) as channel,
    ):
        unread.send(open_call(1, watching) + data(1, frames.message(b""), end=True))
        unread.drain(0.5)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=10)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
