"""The public port by frames: whatever a connection sends, the server lives, serves others, and keeps nothing of it."""

import os
import time
from contextlib import suppress
from typing import Final

import grpc
import psutil
import pytest

from attacks.connection import Connection
from fixtures.served import Serve, Server
from fuzz.frames import Attack, run
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as grpc_stubs

RUNS: Final = int(os.environ.get("RATELIMIT_FUZZ_RUNS", "400"))
"""Attacks on each transport; `make fuzz` makes 1,000,000."""
FIRST: Final = int(os.environ.get("RATELIMIT_FUZZ_SEED", "1"))
BLOCK: Final = 200
"""Attacks between two checks of the server."""
HANG_SECONDS: Final = 1.0 if "RATELIMIT_FUZZ_RUNS" in os.environ else 10.0
MEMORY_MB: Final = 60
RESTART_SECONDS: Final = 30.0
FAULTS: Final = ("Traceback", "internal error", "incident", "Exception in", "Assert", "panicked", "Segmentation")


def test_a_seed_is_an_attack() -> None:
    """The same seed makes the same attack, and another one another."""
    assert Attack(1).portions() == Attack(1).portions()
    assert Attack(1).portions() != Attack(2).portions()


@pytest.mark.timeout(0 if RUNS > 10_000 else 300)
def test_frames(serve: Serve) -> None:
    """No attack ends a process, hangs others for a second, is an error of ours in the log, or leaves memory behind."""
    server = serve("envoy")
    _, api_key = server.key("wide")
    request = pb2.CheckLimitRequest(api_key=api_key)
    bodies = [request.SerializeToString(), pb2.BatchCheckLimitRequest(checks=[request] * 3).SerializeToString()]
    check = grpc_stubs.RateLimitServiceStub(server.channel).CheckLimit
    processes = [process.pid for process in psutil.Process(server.process.pid).children(recursive=True)]
    assert check(request, timeout=5).allowed
    memory = 0.0
    for start in range(FIRST, FIRST + RUNS, BLOCK):
        for seed in range(start, min(start + BLOCK, FIRST + RUNS)):
            run(server.address, seed, bodies, 0.002)
        began = time.monotonic()
        assert check(request, timeout=20).allowed, f"seeds {start} to {start + BLOCK}"
        assert time.monotonic() - began < HANG_SECONDS, f"seeds {start} to {start + BLOCK}"
        memory = memory or _memory_mb(processes)  # after the first attacks, which fill what is kept on purpose
    assert [process.pid for process in psutil.Process(server.process.pid).children(recursive=True)] == processes
    assert not [line for line in server.output.splitlines() if any(fault in line for fault in FAULTS)]
    assert _memory_mb(processes) - memory < MEMORY_MB
    with Connection(server.address) as connection:
        connection.drain(0.5)
        assert not connection.closed


@pytest.mark.timeout(0 if RUNS > 10_000 else 300)
def test_frames_on_grpcio(serve: Serve) -> None:
    """Whatever was sent, calls are decided again soon: a path that is not UTF-8 ends a worker, and another starts.

    The library ends its main loop at it (docs/security.md), so less can be asserted than on the transport envoy.
    """
    server = serve("grpcio")
    _, api_key = server.key("wide")
    request = pb2.CheckLimitRequest(api_key=api_key)
    for start in range(FIRST, FIRST + RUNS, BLOCK):
        for seed in range(start, min(start + BLOCK, FIRST + RUNS)):
            with suppress(ConnectionError):  # while a worker starts, nobody listens
                run(server.address, seed, [request.SerializeToString()], 0.002)
        until = time.monotonic() + RESTART_SECONDS
        while not _is_allowed(server, request):
            assert time.monotonic() < until, f"seeds {start} to {start + BLOCK}"
            time.sleep(0.1)


def _is_allowed(server: Server, request: pb2.CheckLimitRequest) -> bool:
    with grpc.insecure_channel(server.address) as channel:
        try:
            return grpc_stubs.RateLimitServiceStub(channel).CheckLimit(request, timeout=2).allowed
        except grpc.RpcError:
            return False


def _memory_mb(processes: list[int]) -> float:
    return sum(psutil.Process(pid).memory_info().rss for pid in processes) / 2**20
