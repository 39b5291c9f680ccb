"""When a server does not start, and what it reports then."""

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from fixtures.served import START_SECONDS, Server, launch, make_settings
from ratelimit_service.server.envoy_worker import embedded_environment

StartOwn = Callable[..., Server]


def refusal(transport: str, database_url: str, redis_url: str, folder: Path, **changes: object) -> str:
    """The output of a server that does not start. Its exit code must not be 0."""
    settings = make_settings(database_url, redis_url, transport)
    server = launch(settings.model_copy(update=changes), {}, folder / "log")
    assert server.process.wait(START_SECONDS) != 0
    assert "Traceback" not in server.output
    return server.output


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
@pytest.mark.parametrize("option", [socket.SO_REUSEPORT, socket.SO_REUSEADDR])
def test_a_port_that_is_taken(
    transport: str, option: int, migrated_database_url: Callable[[], str], valkey_url: str, tmp_path: Path
) -> None:
    """A foreign process on the port is not joined, even if it would share: the server fails with a message."""
    with socket.socket() as foreign:
        foreign.setsockopt(socket.SOL_SOCKET, option, 1)
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        address = f"127.0.0.1:{foreign.getsockname()[1]}"
        output = refusal(transport, migrated_database_url(), valkey_url, tmp_path, listen=address)
    assert f"cannot listen on {address}: Address already in use" in output
    assert "RATELIMIT_LISTEN" in output


def test_a_second_server_on_the_port(own_server: StartOwn, valkey_url: str, tmp_path: Path) -> None:
    """It does not start, and the first one keeps serving."""
    first = own_server("grpcio")
    url = first.settings.database_url.get_secret_value()
    output = refusal("envoy", url, valkey_url, tmp_path, listen=first.address)
    assert "Address already in use" in output
    assert first.key()


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_a_fault_that_a_worker_finds(
    transport: str, migrated_database_url: Callable[[], str], valkey_url: str, tmp_path: Path
) -> None:
    """An error that only a worker finds is reported by the server with the worker's message, without a secret."""
    peppers = SecretStr("1:dG9vc2hvcnQ=")
    output = refusal(transport, migrated_database_url(), valkey_url, tmp_path, peppers=peppers)
    assert "RATELIMIT_PEPPERS cannot be used" in output
    assert "dG9vc2hvcnQ" not in output


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_half_of_tls(transport: str, migrated_database_url: Callable[[], str], valkey_url: str, tmp_path: Path) -> None:
    """A certificate without a key is refused with a message."""
    certificate = tmp_path / "nothing.pem"
    assert "half set up" in refusal(
        transport, migrated_database_url(), valkey_url, tmp_path, tls_certificate=certificate
    )


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_gateways_without_a_ca(
    transport: str, migrated_database_url: Callable[[], str], valkey_url: str, tmp_path: Path
) -> None:
    """Certificates that nobody has to show make no gateways: the server does not start, and names what is missing."""
    output = refusal(transport, migrated_database_url(), valkey_url, tmp_path, gateway_certificates="gateway.test")
    assert "set RATELIMIT_TLS_CLIENT_CA" in output


@pytest.mark.parametrize(
    "listen", ["50051", "localhost", "127.0.0.1:http", "127.0.0.1:70000", "no.such.host.invalid:1"]
)
def test_an_invalid_address(
    listen: str, migrated_database_url: Callable[[], str], valkey_url: str, tmp_path: Path
) -> None:
    """The message has the address, and an example of a valid one or the unknown host."""
    assert listen in refusal("grpcio", migrated_database_url(), valkey_url, tmp_path, listen=listen)


def test_an_operations_port_that_is_taken(
    migrated_database_url: Callable[[], str], valkey_url: str, tmp_path: Path
) -> None:
    """The message has the setting to change."""
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        address = f"127.0.0.1:{foreign.getsockname()[1]}"
        output = refusal("grpcio", migrated_database_url(), valkey_url, tmp_path, operations_listen=address)
    assert "RATELIMIT_OPERATIONS_LISTEN" in output


def test_the_python_inside_envoy_finds_this_package(tmp_path: Path) -> None:
    """It does so from any folder, and where `.pth` files are not read, as by Debian's Python inside Envoy."""
    environment = embedded_environment()
    command = [sys.executable, "-S", "-c", "import ratelimit_service.errors"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": environment["PYTHONPATH"]}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
