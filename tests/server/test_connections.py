"""Connections: which worker gets them, how long they live, and which ones are cut off."""

import asyncio
import socket
import struct
import time
from collections.abc import Callable

import grpc
import psutil
import pytest
from h2.connection import H2Connection

from attacks import frames
from attacks.connection import Connection, data, open_call, window
from fixtures.served import Serve, Server
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from server.load import load
from transport.conformance.call import STREAM
from transport.conformance.raw import CONFIGURATION, HEADERS, prefixed, read_answer

StartOwn = Callable[..., Server]
ROUNDS, CONNECTIONS = 3, 32


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
async def test_workers_share_the_load(own_server: StartOwn, transport: str) -> None:
    """Of three rounds of 32 connections under the same load, neither of two workers has less than 30 %."""
    server = await asyncio.to_thread(own_server, transport, workers=2)
    _, api_key = await asyncio.to_thread(server.key, "wide")
    server.close_channel()
    shares: dict[int, int] = dict.fromkeys((worker.pid for worker in server.workers()), 0)
    for _ in range(ROUNDS):
        async with load(server.address, api_key, clients=CONNECTIONS, pause=0.05) as state:
            await state.settle(CONNECTIONS * 3)
            for worker in server.workers():
                shares[worker.pid] += len(_callers(worker, server))
        assert not state.failures
    assert sum(shares.values()) == ROUNDS * CONNECTIONS
    assert min(shares.values()) >= 0.3 * ROUNDS * CONNECTIONS, shares


def _callers(worker: psutil.Process, server: Server) -> set[int]:
    """The ports of the clients that are connected to a worker."""
    port = int(server.address.rpartition(":")[2])
    found = worker.net_connections("tcp")
    return {c.raddr.port for c in found if c.status == psutil.CONN_ESTABLISHED and c.laddr.port == port}


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
async def test_old_connections_are_closed_gracefully(own_server: StartOwn, transport: str) -> None:
    """Connections older than max_connection_age are replaced under load, and no call fails."""
    server = await asyncio.to_thread(own_server, transport, max_connection_age=1)
    _, api_key = await asyncio.to_thread(server.key, "wide")
    server.close_channel()
    (worker,) = server.workers()
    async with load(server.address, api_key, clients=4) as state:
        await state.settle(100)
        before = _callers(worker, server)
        deadline = time.monotonic() + 10
        while before & _callers(worker, server):
            assert time.monotonic() < deadline, "the same connections after ten times their age"
            await asyncio.sleep(0.1)
        await state.settle(100)
    assert not state.failures


@pytest.fixture(scope="module")
def server(serve: Serve) -> Server:
    """One behind the transport envoy, for callers that it is to live with."""
    return serve("envoy")


def test_a_caller_that_does_not_read_is_not_read_either(server: Server) -> None:
    """On the transport envoy, a stream with unread answers stops being read, long before it fills the memory."""
    _, api_key = server.key("wide")
    message = prefixed(
        pb2.StreamCheckLimitRequest(check={"api_key": api_key, "resource": "r" * 200}).SerializeToString()
    )
    connection = H2Connection(CONFIGURATION)
    connection.initiate_connection()
    host, port = server.address.split(":")
    sent, most = 0, 64 * 1024 * 1024
    with socket.create_connection((host, int(port)), timeout=3) as wire:
        connection.send_headers(1, list((HEADERS | {":path": STREAM}).items()))
        while sent < most:
            room = connection.local_flow_control_window(1)
            if room < len(message):
                try:
                    connection.receive_data(wire.recv(65_536))  # answers, which are not acknowledged, and more room
                except TimeoutError:
                    break
                continue
            connection.send_data(1, message)
            sent += len(message)
            wire.sendall(connection.data_to_send())
    assert 100_000 < sent < 4 * 1024 * 1024
    with grpc.insecure_channel(server.address) as channel:
        grpc.channel_ready_future(channel).result(5)


def test_a_caller_that_reads_late_gets_every_answer(server: Server) -> None:
    """On the transport envoy, thousands of answers wait for a caller of streams that does not read for a while."""
    large, small = (
        frames.message(pb2.StreamCheckLimitRequest(check={"api_key": api_key}).SerializeToString())
        for api_key in (server.key("wide")[1], "unknown")
    )
    streams, at_once, one_by_one = (1, 3, 5, 7), 400, 750
    windows = struct.pack(">HI", frames.INITIAL_WINDOW_SIZE, frames.MAX_WINDOW)
    opening = frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0, windows)
    opening += window(0, frames.MAX_WINDOW - frames.DEFAULT_WINDOW)
    answers = dict.fromkeys(streams, b"")
    with Connection(server.address, opening, receive_buffer=4096) as connection:
        for stream in streams:
            connection.send(open_call(stream, frames.header_block(STREAM)) + data(stream, large * (at_once // 2)) * 2)
        for _ in range(one_by_one):
            for stream in streams:
                connection.send(data(stream, small))
            time.sleep(0.001)
        connection.send(b"".join(data(stream, b"", end=True) for stream in streams))
        deadline = time.monotonic() + 20
        while not connection.ended >= set(streams) and not connection.closed and time.monotonic() < deadline:
            for kind, _, stream, payload in connection.read(0.05):
                if kind == frames.DATA:
                    answers[stream] += payload
        assert not connection.closed
    assert [_messages(answers[stream]) for stream in streams] == [at_once + one_by_one] * len(streams)


def test_a_caller_who_opens_the_windows_for_each_answer_is_not_cut_off(server: Server) -> None:
    """On the transport envoy, two WINDOW_UPDATE for each answer are in order, however few frames the answers fill."""
    check = frames.message(pb2.StreamCheckLimitRequest(check={"api_key": "unknown"}).SerializeToString())
    checks = 1_000
    with Connection(server.address) as connection:
        connection.send(open_call(1, frames.header_block(STREAM)))
        answers = b""
        for total in (checks, 2 * checks):
            connection.send(data(1, check * checks))
            deadline = time.monotonic() + 20
            while _messages(answers) < total and not connection.closed and time.monotonic() < deadline:
                answers += b"".join(body for kind, _, _, body in connection.read(0.05) if kind == frames.DATA)
            connection.send((window(0, 10) + window(1, 10)) * checks)
        connection.send(data(1, b"", end=True))
        assert connection.wait_ended(1, 10)
        assert connection.goaway is None
    assert _messages(answers) == 2 * checks


def test_a_gateway_that_abandons_its_calls_is_not_cut_off(server: Server) -> None:
    """With Envoy, 5,000 calls that are reset as soon as they are made leave the connection usable for the next."""
    _, api_key = server.key("wide")
    message = prefixed(pb2.CheckLimitRequest(api_key=api_key).SerializeToString())
    connection = H2Connection(CONFIGURATION)
    connection.initiate_connection()
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as wire:
        for stream in range(1, 10_001, 2):
            while connection.outbound_flow_control_window < 2 * len(message):
                wire.sendall(connection.data_to_send())
                connection.receive_data(wire.recv(65_536))  # more room
            connection.send_headers(stream, list(HEADERS.items()))
            connection.send_data(stream, message, end_stream=True)
            connection.reset_stream(stream)
        connection.send_headers(10_001, list(HEADERS.items()))
        connection.send_data(10_001, message, end_stream=True)
        wire.sendall(connection.data_to_send())
        assert read_answer(wire, connection, 10_001).code == 0


def _messages(body: bytes) -> int:
    """How many gRPC messages there are in BODY."""
    count = 0
    while body:
        body = body[5 + int.from_bytes(body[1:5], "big") :]
        count += 1
    return count
