"""What the supervisor does when processes die, on signals, and what happens when it dies itself."""

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable
from functools import cache

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fixtures.served import Serve, Server
from server.load import load
from server.streams import open_stream

StartOwn = Callable[..., Server]
both_transports = pytest.mark.parametrize("transport", ["grpcio", "envoy"])


async def start(own_server: StartOwn, transport: str, **changes: object) -> Server:
    """Start a server without blocking the loop: what seeds it has a loop of its own."""
    return await asyncio.to_thread(own_server, transport, **changes)


@pytest.fixture(scope="module")
def servers(serve: Serve) -> StartOwn:
    """The server of a transport, with two workers, for the tests up to that which ends it."""
    return cache(lambda transport: serve(transport, workers=2, drain_timeout=5))


@both_transports
async def test_a_killed_worker_is_back_within_two_seconds(servers: StartOwn, transport: str) -> None:
    """Two workers under load, one killed: only calls on its connections fail, and two seconds later there are two."""
    server = await start(servers, transport)
    _, api_key = await asyncio.to_thread(server.key, "wide")
    async with load(server.address, api_key, clients=8) as state:
        await state.settle(200)
        victim = server.workers()[0]
        victim.kill()
        killed = time.monotonic()
        while len(_serving(server, without=victim.pid)) < 2:
            assert time.monotonic() - killed < 2, server.output
            await asyncio.sleep(0.02)
        await state.settle(200)
    assert all(failure.startswith("UNAVAILABLE") for failure in state.failures), state.failures
    # A client may reconnect to the socket of the process that is just being torn down; its library then backs off for a
    # second, in which it fails calls without sending them.
    sent = {failure: count for failure, count in state.failures.items() if "failed to connect" not in failure}
    assert sum(sent.values()) <= 8, state.failures
    assert state.last_failure - killed < 2


def _serving(server: Server, without: int) -> list[str]:
    """The log lines of workers that serve, without those of one process."""
    lines = server.output.splitlines()
    return [
        line
        for line in lines
        if " serves " in line and not re.search("control|operations", line) and f"pid={without} " not in line
    ]


@both_transports
async def test_a_rolling_restart_fails_no_call(servers: StartOwn, transport: str) -> None:
    """SIGHUP replaces every process under a hundred calls a second, and not one of them fails."""
    server = await start(servers, transport)
    server.close_channel()  # which was to a process that may have been killed
    _, api_key = await asyncio.to_thread(server.key, "wide")
    before = {process.pid for process in psutil.Process(server.process.pid).children()}
    async with load(server.address, api_key, clients=6, pause=0.05) as state:
        await state.settle(50)
        server.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(server.wait_for_output, "rolling restart done")
        await state.settle(50)
    after = {process.pid for process in psutil.Process(server.process.pid).children()}
    assert not before & after
    assert len(after) == len(before)
    refused = sum(count for failure, count in state.failures.items() if "more calls than it can decide" in failure)
    assert state.failures.total() == refused <= 0.01 * state.answered, state.failures  # on a busy machine


@both_transports
async def test_sigterm_lets_calls_end(servers: StartOwn, transport: str) -> None:
    """A stream that is open when SIGTERM comes gets an answer to every check, and the exit code is 0."""
    server = await start(servers, transport)
    server.close_channel()
    _, api_key = await asyncio.to_thread(server.key, "wide")
    async with open_stream(server, api_key) as stream:
        await stream.send(500)
        server.process.send_signal(signal.SIGTERM)
        await stream.send(100)
        await stream.finish()
    assert await asyncio.to_thread(server.process.wait, 20) == 0, server.output


async def test_sigterm_is_not_delayed_by_idle_callers(own_server: StartOwn) -> None:
    """The transport envoy closes quiet streams and idle connections, well before the drain timeout."""
    server = await start(own_server, "envoy", drain_timeout=20)
    _, api_key = await asyncio.to_thread(server.key, "wide")
    server.close_channel()
    async with open_stream(server, api_key) as stream:
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.call.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert b"DRAINING" in dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
        assert await asyncio.to_thread(server.process.wait, 30) == 0, server.output
    assert time.monotonic() - began < 10


@both_transports
def test_no_process_outlives_a_killed_supervisor(own_server: StartOwn, transport: str) -> None:
    """SIGKILL of the supervisor ends every process that it started, and the port is free for the next server.

    That one drains by Ctrl-C as by SIGTERM: no process is in the terminal's group, so that SIGINT reaches the
    supervisor alone.
    """
    server = own_server(transport, workers=2)
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert len(children) >= 2
    server.process.kill()
    server.process.wait()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    again = own_server(transport, listen=server.address)
    assert again.key()
    group = os.getpgid(again.process.pid)
    assert all(os.getpgid(child.pid) != group for child in psutil.Process(again.process.pid).children())
    assert again.stop(signal.SIGINT) == 0


async def test_health_watchers_see_a_drain_but_no_restart(own_server: StartOwn) -> None:
    """On the transport envoy, health watchers get NOT_SERVING in a drain, and only SERVING in a rolling restart."""
    server = await start(own_server, "envoy")
    seen: list[int] = []
    more = asyncio.Event()

    async def watch(channel: grpc.aio.Channel) -> None:
        while True:
            try:
                async for answer in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
                    seen.append(answer.status)
                    more.set()
            except grpc.aio.AioRpcError as error:
                broken.append(error.code())
                await asyncio.sleep(0.05)

    async def until(count: int) -> None:
        async with asyncio.timeout(20):
            while len(seen) < count:
                more.clear()
                await more.wait()

    broken: list[grpc.StatusCode] = []
    async with grpc.aio.insecure_channel(server.address) as channel:
        watching = asyncio.create_task(watch(channel))
        await until(1)
        server.process.send_signal(signal.SIGHUP)
        await until(3)  # again when the control plane was replaced, and again when the Envoy was
        await asyncio.to_thread(server.wait_for_output, "rolling restart done")
        assert set(seen) == {health_pb2.HealthCheckResponse.SERVING}
        server.process.send_signal(signal.SIGTERM)
        await until(4)
        assert seen[3] == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await asyncio.to_thread(server.process.wait, 20) == 0
        watching.cancel()
    assert set(broken) == {grpc.StatusCode.UNAVAILABLE}


async def test_a_process_that_keeps_dying_is_restarted_more_and_more_slowly(own_server: StartOwn) -> None:
    """Each time that a worker dies soon after its start, the pause before the next one is longer, and it is logged."""
    server = await start(own_server, "grpcio")
    for deaths in range(1, 4):
        server.workers()[0].kill()
        await asyncio.to_thread(server.wait_for_output, "ended by itself; starting another", deaths)
        await asyncio.to_thread(server.wait_for_output, "process='worker 1'", 2 * deaths + 1)
    pauses = [
        line.partition("pause=")[2].split()[0] for line in server.output.splitlines() if "ended by itself" in line
    ]
    assert pauses == ["0.0", "0.1", "0.2"]
