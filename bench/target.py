"""Servers to put under load."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.empty_app import SIZES
from ratelimit_service.server.instance import child_environment
from ratelimit_service.settings import Settings
from ratelimit_service.transport.envoy.config import EnvoyOptions, envoy_config
from ratelimit_service.transport.envoy.crossing import find_module
from ratelimit_service.transport.envoy.paths import PATHS, STREAMS

PROGRAM = Path(sys.executable).with_name("ratelimit-service")
"""Of this checkout."""

_UNCOUNTED = Path(__file__).with_name("uncounted")
_START_SECONDS = 60
_STOP_SECONDS = 30


class Target(NamedTuple):
    """A running server: its port, its root process, its transport and number of workers."""

    port: int
    pid: int
    transport: str
    workers: int


@contextmanager
def serving(
    settings: Settings, transport: str, workers: int, *, counted: bool = True, program: Path = PROGRAM
) -> Iterator[Target]:
    """The whole service on one transport, as PROGRAM serves it; or one that counts no usage."""
    port = free_port()
    own = settings.model_copy(update={"listen": f"127.0.0.1:{port}", "transport": transport, "workers": workers})
    with tempfile.TemporaryDirectory() as metrics:
        command = [str(program), "serve"]
        environment = child_environment(own, Path(metrics))
        environment.pop("PYTHONPATH", None)
        if not counted:
            environment["PYTHONPATH"] = str(_UNCOUNTED)
        # Elsewhere: Python in Envoy would import the package from where it is started, whatever the program.
        with running(command, environment, Path(metrics)) as process:
            _await_health(port, process)
            yield Target(port, process.pid, transport, workers)


@contextmanager
def empty(transport: str, sizes: Mapping[str, int] = MappingProxyType({})) -> Iterator[Target]:
    """One process of a transport with the empty handler. SIZES: of responses that are not 96 bytes, by path (Envoy)."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        if transport == "envoy":
            command = embedded("bench.empty_app:app", port, Path(folder))
        else:
            command = ["bench.empty_grpcio", str(port)]
        environment = os.environ | {SIZES: json.dumps(dict(sizes))}
        with running([sys.executable, "-m", *command], environment) as process:
            await_port(port, process)
            yield Target(port, process.pid, transport, 1)


def embedded(app: str, port: int, folder: Path) -> list[str]:
    """The module to run, and its arguments, for an Envoy on PORT with APP embedded; its files are in FOLDER."""
    options = EnvoyOptions(
        app=app,
        hot_paths=PATHS,
        streams=STREAMS,
        host="127.0.0.1",
        port=port,
        admin_socket=folder / "admin.sock",
        control_socket=folder / "unused.sock",
        max_connection_age=3600,
        max_concurrent_streams=16,
        tls=None,
        crossing=find_module(),
    )
    config = folder / "envoy.json"
    config.write_text(json.dumps(envoy_config(options)))
    worker = ["ratelimit_service.server.process", "ratelimit_service.server.envoy_worker"]
    return [*worker, str(os.getpid()), str(config), "1"]


@contextmanager
def running(
    command: list[str], environment: Mapping[str, str], folder: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is stopped at the end, started in FOLDER; None: where this one was."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=folder)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_health(port: int, process: subprocess.Popen[bytes]) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for _ in _tries(process):
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=1, wait_for_ready=True)
            except grpc.RpcError:
                continue
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return


def await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return once PROCESS listens on PORT."""
    for _ in _tries(process):
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                time.sleep(1)  # the port may be open before the handler is there
                return


def _tries(process: subprocess.Popen[bytes]) -> Iterator[None]:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SystemExit(f"the server exited with code {process.returncode}; see above")
        yield
        time.sleep(0.05)
    raise SystemExit(f"the server is not ready after {_START_SECONDS} s")


def free_port() -> int:
    """A port that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
