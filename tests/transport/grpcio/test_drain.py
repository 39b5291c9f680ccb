"""Servers that stop while they are in use."""

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as checks_pb2
from ratelimit_service.settings import Settings
from ratelimit_service.transport.grpcio.shutdown import Notify, close_gracefully, send_goaway, send_nothing
from transport.grpcio.conftest import FREE, MakeSettings
from transport.grpcio.running import CHECKS, open_server

GREETING = b"more than a frame's header"
WORKER = Path(__file__).parent / "worker.py"


class Workers:
    """Starts servers as processes, all on one port."""

    def __init__(self, settings: Settings) -> None:
        self._environment = {**os.environ}
        for name in ("database_url", "redis_url", "peppers"):
            self._environment[f"RATELIMIT_{name.upper()}"] = getattr(settings, name).get_secret_value()
        self.port = 0
        self.running: list[asyncio.subprocess.Process] = []

    async def start(self, drain_timeout: float = 10) -> asyncio.subprocess.Process:
        """Start one that serves when this returns."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            WORKER,
            env=self._environment
            | {"RATELIMIT_LISTEN": f"127.0.0.1:{self.port}", "RATELIMIT_DRAIN_TIMEOUT": str(drain_timeout)},
            stdout=asyncio.subprocess.PIPE,
        )
        self.running.append(process)
        assert process.stdout is not None
        while not (line := await process.stdout.readline()).strip().isdigit():  # what it logs meanwhile
            assert line, "it ended"
        self.port = int(line)
        return process

    def channel(self) -> grpc.aio.Channel:
        """A channel with connections of its own."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=options)

    async def end(self) -> None:
        """End those that are left."""
        for process in self.running:
            if process.returncode is None:
                process.kill()
            await process.wait()


@pytest.fixture(scope="module")
async def settings_and_key(make_settings: MakeSettings) -> tuple[Settings, str]:
    """Settings for all workers, and a key."""
    settings = await asyncio.to_thread(make_settings)
    async with open_server(settings) as running:
        await running.plan("create", plan=FREE)
        return settings, (await running.key("create", plan="free", subject="someone")).create.secret


@pytest.fixture
async def workers(settings_and_key: tuple[Settings, str]) -> AsyncIterator[Workers]:
    """The workers of a test."""
    workers = Workers(settings_and_key[0])
    yield workers
    await workers.end()


@pytest.fixture
def request_bytes(settings_and_key: tuple[Settings, str]) -> bytes:
    """A CheckLimit of cost 0."""
    return checks_pb2.CheckLimitRequest(api_key=settings_and_key[1], resource="r", cost=0).SerializeToString()


async def test_a_rolling_restart_under_load_fails_no_call(workers: Workers, request_bytes: bytes) -> None:
    """Twice a new server takes over from an old one while stock clients call without a pause or retry."""
    outcomes: Counter[str] = Counter()
    stopped = asyncio.Event()

    async def call_repeatedly(channel: grpc.aio.Channel) -> None:
        call = channel.unary_unary(f"{CHECKS}/CheckLimit")
        while not stopped.is_set():
            try:
                await call(request_bytes, timeout=10)
                outcomes["OK"] += 1
            except grpc.aio.AioRpcError as error:
                outcomes[f"{error.code().name}: {error.details()}"] += 1

    old = await workers.start()
    channels = [workers.channel() for _ in range(4)]
    callers = [asyncio.create_task(call_repeatedly(channel)) for channel in channels for _ in range(8)]
    for _ in range(2):
        await asyncio.sleep(0.2)
        new = await workers.start()
        old.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(old.wait(), 15) == 0
        old = new
    stopped.set()
    await asyncio.gather(*callers)
    for channel in channels:
        await channel.close()
    refused = sum(count for outcome, count in outcomes.items() if "more calls than it can decide" in outcome)
    assert set(outcomes) == {"OK"} or sum(outcomes.values()) - outcomes["OK"] == refused, outcomes
    assert refused * 100 < outcomes["OK"], outcomes  # under overload only, as on a machine that is busy otherwise
    assert outcomes["OK"] > 100


async def test_an_open_stream_may_end_during_the_drain(workers: Workers, request_bytes: bytes) -> None:
    """A draining server keeps answering an open stream, and exits once the stream has ended."""
    worker = await workers.start()
    message = checks_pb2.StreamCheckLimitRequest(check=checks_pb2.CheckLimitRequest.FromString(request_bytes))
    async with workers.channel() as channel:
        call = channel.stream_stream(f"{CHECKS}/StreamCheckLimit")(timeout=20)
        await call.write(message.SerializeToString())
        assert await call.read()
        worker.send_signal(signal.SIGTERM)
        await asyncio.sleep(1.3)  # the server has begun to stop by now
        await call.write(message.SerializeToString())
        assert await call.read()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        assert await asyncio.wait_for(worker.wait(), 5) == 0


async def test_a_stream_that_does_not_end_is_cut_off(workers: Workers, request_bytes: bytes) -> None:
    """After the drain timeout the calls that are left are cut off, and the server exits."""
    worker = await workers.start(drain_timeout=1)
    message = checks_pb2.StreamCheckLimitRequest(check=checks_pb2.CheckLimitRequest.FromString(request_bytes))
    async with workers.channel() as channel:
        call = channel.stream_stream(f"{CHECKS}/StreamCheckLimit")(timeout=20)
        await call.write(message.SerializeToString())
        assert await call.read()
        began = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
        assert 0.8 < time.monotonic() - began < 4
        assert await asyncio.wait_for(worker.wait(), 5) == 0


async def test_an_idle_server_exits_at_once(workers: Workers, request_bytes: bytes) -> None:
    """A client that is connected but makes no calls does not delay the exit."""
    worker = await workers.start()
    async with workers.channel() as channel:
        await channel.unary_unary(f"{CHECKS}/CheckLimit")(request_bytes, timeout=10)
        began = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(worker.wait(), 5) == 0
        assert time.monotonic() - began < 3


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve a connection as far as its first frame."""
    writer.write(GREETING)
    await writer.drain()
    await reader.read()
    writer.close()


async def test_goaway_is_sent_to_connections_of_the_port_only() -> None:
    """The frame is a GOAWAY that refuses no stream; connections of another port are left alone."""
    ours, theirs = [await asyncio.start_server(_greet, "127.0.0.1", 0) for _ in range(2)]
    ports = [server.sockets[0].getsockname()[1] for server in (ours, theirs)]
    clients = [await asyncio.open_connection("127.0.0.1", port) for port in ports]
    for reader, _ in clients:
        await reader.readexactly(len(GREETING))
    left = await close_gracefully(ports[0], send_goaway, grace=0.1, patience=0.1)
    received = []
    for reader, writer in clients:
        writer.write_eof()
        received.append(await reader.read())
        writer.close()
        await writer.wait_closed()
    for server in (ours, theirs):
        server.close()
        await server.wait_closed()
    assert left == 1
    assert received == [bytes.fromhex("000008 07 00 00000000 7fffffff 00000000"), b""]
    assert await close_gracefully(ports[0], send_goaway, grace=0.1, patience=0.1) == 0


async def test_a_client_that_reconnects_gets_goaway_again() -> None:
    """A client that connects when no other is left gets GOAWAY too, and the wait for others begins anew."""
    server = await asyncio.start_server(_greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    drain = asyncio.create_task(close_gracefully(port, send_goaway, grace=5, patience=5))
    for _ in range(3):
        await asyncio.sleep(0.02)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await reader.readexactly(len(GREETING))
        assert (await asyncio.wait_for(reader.readexactly(17), 2))[3] == 7
        assert not drain.done()
        writer.close()
        await writer.wait_closed()
    assert await asyncio.wait_for(drain, 2) == 0
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(("notify", "waited"), [(send_goaway, True), (send_nothing, False)])
async def test_a_client_that_was_sent_goaway_is_waited_for(notify: Notify, waited: bool) -> None:
    """It may not have read that yet, and goes on to begin calls; one that nothing was sent to gets the grace alone."""
    server = await asyncio.start_server(_greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await reader.readexactly(len(GREETING))
    drain = asyncio.create_task(close_gracefully(port, notify, grace=0.1, patience=10))
    await asyncio.sleep(0.5)
    assert drain.done() is not waited
    writer.close()
    await writer.wait_closed()
    assert await asyncio.wait_for(drain, 5) == (0 if waited else 1)
    server.close()
    await server.wait_closed()


async def test_goaway_is_not_sent_before_the_first_frame() -> None:
    """A connection to which nothing was sent yet is left alone: GOAWAY must not be the first that its client reads."""

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(wait, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.sleep(0.05)
    left = await close_gracefully(port, send_goaway, grace=0.1, patience=5)
    writer.write_eof()
    received = await reader.read()
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    assert (left, received) == (1, b"")
