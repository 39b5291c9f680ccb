"""The disk of a server's own folder is full, and a process has no descriptor left."""

import os
import resource
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from faults.proxy import FaultProxy
from fixtures.served import Server, free_address
from fixtures.valkey import StartValkey
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as grpc_stubs

_BYTES = 16 * 2**20


class Disk:
    """A small disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Write until nothing more can be written."""
        with (self.path / "fill").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                return

    def empty(self) -> None:
        """Give the space back."""
        (self.path / "fill").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 16 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_BYTES}", "tmpfs", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode != 0:
        pytest.skip(f"this machine mounts nothing: {mounted.stderr.strip()}")
    yield Disk(tmp_path)
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def readyz(server: Server) -> str:
    """What /readyz says, with its code."""
    try:
        with urllib.request.urlopen(f"http://{server.settings.operations_listen}/readyz", timeout=5) as answer:
            return f"{answer.status} {answer.read().decode().strip()}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode().strip()}"


def wait_until_it_says(server: Server, text: str, within: float = 15) -> str:
    """Wait until /readyz says TEXT."""
    deadline = time.monotonic() + within
    while text not in (answer := readyz(server)):
        assert time.monotonic() < deadline, answer
        time.sleep(0.1)
    return answer


def allowed(server: Server, api_key: str) -> bool:
    """Whether a call is allowed."""
    stub = grpc_stubs.RateLimitServiceStub(server.channel)
    return bool(stub.CheckLimit(pb2.CheckLimitRequest(api_key=api_key), timeout=5, wait_for_ready=True).allowed)


def call_for(seconds: float, server: Server, api_key: str) -> None:
    """Call now and then; each call is allowed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert allowed(server, api_key)
        time.sleep(0.05)


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_a_full_disk(own_server: Callable[..., Server], disk: Disk, valkey: StartValkey, transport: str) -> None:
    """No process ends by it, one that ends is replaced, and what else is wrong shows."""
    with FaultProxy(valkey().port) as proxy:
        server = own_server(
            transport, operations_listen=free_address(), redis_url=proxy.url, variables={"TMPDIR": str(disk.path)}
        )
        _, api_key = server.key("wide")
        (worker,) = server.workers()
        disk.fill()
        assert allowed(server, api_key)
        proxy.inject(half_open=True)
        wait_until_it_says(server, "200 degraded: redis does not answer")
        call_for(6, server, api_key)  # longer than a heartbeat counts
        assert "on_store_failure decides (1 of 1 workers)" in readyz(server)
        proxy.heal()
        proxy.reset()
        wait_until_it_says(server, "200 ready")
        assert worker.is_running(), server.output
        worker.kill()
        server.wait_for_output("metrics cannot be stored")
        wait_until_it_says(server, "200 ready", within=30)
        server.close_channel()
        assert allowed(server, api_key)


def test_a_worker_without_descriptors_says_how_it_decides(
    own_server: Callable[..., Server], valkey: StartValkey
) -> None:
    """It goes on with the connections that it has, and /readyz says that it decides without the store."""
    with FaultProxy(valkey().port) as proxy:
        server = own_server("envoy", operations_listen=free_address(), redis_url=proxy.url)
        _, api_key = server.key("wide")
        assert allowed(server, api_key)
        (worker,) = server.workers()
        wait_until_it_says(server, "200 ready")
        none_left(worker)
        proxy.target_port = 1
        proxy.reset()
        call_for(8, server, api_key)
        assert "the circuit breaker of Redis is open: on_store_failure decides (1 of 1 workers)" in readyz(server)


def none_left(process: psutil.Process) -> None:
    """Let a process open nothing any more: all numbers below the limit are taken."""
    process.rlimit(resource.RLIMIT_NOFILE, (8, 4096))
