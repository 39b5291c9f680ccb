"""A process that hangs, in whatever way, is noticed, ended with all its connections, and replaced."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import grpc
import psutil
import pytest

from faults.sizes import FACTOR, FULL, REPORT
from fixtures.served import OPERATIONS, Serve, free_address
from operations.probe import ask, wait_for
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from server.load import load

HANGING = Path(__file__).parent / "hanging"
CONTROL_PLANE = "ratelimit_service.server.control_plane"
NOTICED = 2.0 * FACTOR
REPLACED = 6.0 * FACTOR
CLIENTS = 8
PAUSE = 0.002 if FULL else 0.02
"""Seconds between two calls of a client: in CI the processes that start have the processor meanwhile."""

ENDED = "it hangs; ended, so that another takes its place"

WAYS = ["stopped", "loops"] if FULL else ["stopped"]
WORKERS = [(transport, way) for transport in ("grpcio", "envoy") for way in ("stopped", "loops")]


class Hanging:
    """A server whose processes a test can have hang."""

    def __init__(self, serve: Serve, transport: str, folder: Path) -> None:
        variables = {"PYTHONPATH": str(HANGING), "HANGING_FOLDER": str(folder)}
        self._folder = folder
        self.server = serve(
            transport, workers=2, operations_listen=free_address(), variables=variables, store_timeout=1.0
        )

    def hang(self, process: psutil.Process, way: str) -> float:
        """Have PROCESS hang from now on. Returns the time."""
        if way == "stopped":
            process.send_signal(signal.SIGSTOP)
        else:
            (self._folder / str(process.pid)).touch()
        return time.monotonic()

    def of(self, module: str) -> psutil.Process:
        """The process that runs MODULE."""
        children = psutil.Process(self.server.process.pid).children()
        (found,) = (child for child in children if module in child.cmdline())
        return found


def connections(process: psutil.Process) -> int:
    """How many connections it has. The kernel may give those of all clients to one worker."""
    return len(process.net_connections("tcp"))


@pytest.fixture(scope="module")
def started(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Hanging]:
    """The server of a transport, for all tests: after each of them it is as before."""
    return cache(lambda transport: Hanging(serve, transport, tmp_path_factory.mktemp("hanging")))


@pytest.mark.parametrize(("transport", "way"), WORKERS if FULL else [("grpcio", "stopped"), ("envoy", "loops")])
async def test_a_worker_that_hangs_is_replaced(started: Callable[[str], Hanging], transport: str, way: str) -> None:
    """Its connections end soon, so that clients go elsewhere, and there are as many workers as before."""
    hanging = await asyncio.to_thread(started, transport)
    server = hanging.server
    server.close_channel()  # which may be to a process that another test had hang
    before = server.output.count(ENDED)
    _, api_key = await asyncio.to_thread(server.key, "wide")
    async with load(server.address, api_key, clients=CLIENTS, pause=PAUSE) as state:
        await state.settle(50)
        *others, victim = sorted(server.workers(), key=connections)
        began = hanging.hang(victim, way)
        while victim.is_running():
            assert time.monotonic() - began < NOTICED, server.output
            await asyncio.sleep(0.02)
        noticed = time.monotonic() - began
        while len(workers := {worker.pid for worker in server.workers()} - {victim.pid}) < 2:
            assert time.monotonic() - began < REPLACED, server.output
            await asyncio.sleep(0.05)
        await asyncio.to_thread(wait_for, server.settings.operations_listen, 200, "ready")
        replaced = time.monotonic() - began
        await state.settle(50)
    REPORT.append(f"{transport}, {way}: ended after {noticed:.1f} s, replaced after {replaced:.1f} s, {state.failures}")
    assert {other.pid for other in others} < workers, "the others were left alone"
    assert all(failure.startswith("UNAVAILABLE") for failure in state.failures), state.failures
    sent = {failure: count for failure, count in state.failures.items() if "failed to connect" not in failure}
    assert 1 <= sum(sent.values()) <= CLIENTS, state.failures
    assert server.output.count(ENDED) == before + 1


BUSY_SECONDS = 30.0 if FULL else 6.0


@contextmanager
def busy_machine() -> Iterator[None]:
    """Four programs for each core, all in a loop."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4 * (os.cpu_count() or 1))]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


@pytest.mark.parametrize("transport", ["grpcio", "envoy"] if FULL else ["grpcio"])
async def test_a_busy_machine_ends_no_process(started: Callable[[str], Hanging], transport: str) -> None:
    """However little CPU is left for it, a process that goes on is left alone, under load too."""
    server = (await asyncio.to_thread(started, transport)).server
    server.close_channel()
    ended = server.output.count("it hangs")
    _, api_key = await asyncio.to_thread(server.key, "wide")
    before = {child.pid for child in psutil.Process(server.process.pid).children()}
    with busy_machine():
        async with load(server.address, api_key, clients=4 * CLIENTS):
            await asyncio.sleep(BUSY_SECONDS)
    assert {child.pid for child in psutil.Process(server.process.pid).children()} == before
    assert server.output.count("it hangs") == ended


@pytest.mark.parametrize("way", WAYS)
async def test_a_control_plane_that_hangs_is_replaced(started: Callable[[str], Hanging], way: str) -> None:
    """Administration works again soon, and no decision fails meanwhile."""
    hanging = await asyncio.to_thread(started, "envoy")
    server = hanging.server
    server.close_channel()
    key_id, api_key = await asyncio.to_thread(server.key, "wide")
    async with load(server.address, api_key, clients=4, pause=PAUSE) as state:
        await state.settle(50)
        victim = hanging.of(CONTROL_PLANE)
        began = hanging.hang(victim, way)
        request = admin_pb2.ManageKeyRequest(get={"key_id": key_id})
        while True:
            assert time.monotonic() - began < REPLACED, server.output
            try:
                await asyncio.to_thread(server.manage().ManageKey, request, metadata=server.as_admin, timeout=0.5)
                break
            except grpc.RpcError:
                await asyncio.sleep(0.05)
        took = time.monotonic() - began
        await state.settle(50)
    REPORT.append(f"control plane, {way}: replaced after {took:.1f} s")
    assert not state.failures
    assert not victim.is_running()


@pytest.mark.parametrize("way", ["stopped", "loops"] if FULL else ["loops"])
def test_an_operations_process_that_hangs_is_replaced(started: Callable[[str], Hanging], way: str) -> None:
    """Probes are answered again soon."""
    hanging = started("grpcio")
    address = hanging.server.settings.operations_listen
    victim = hanging.of(OPERATIONS)
    began = hanging.hang(victim, way)
    while victim.is_running():
        assert time.monotonic() - began < NOTICED, hanging.server.output
        time.sleep(0.05)
    if way == "loops":
        assert "(most recent call first):" in hanging.server.output  # where it stood
    wait_for(address, 200, "ready")
    assert ask(address, "/healthz").status == 200
