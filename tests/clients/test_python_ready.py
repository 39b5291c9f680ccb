"""What `ready` of the Python clients raises for a service that cannot be reached, by its cause."""

import asyncio
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from ratelimit_client import AsyncRateLimitClient, Failures, RateLimitClient, RateLimitError

from clients.late_proxy import LateProxy
from clients.scripted_server import ScriptedServer

_ANSWER: dict[str, Any] = {"status": "INVALID_ARGUMENT", "message": "api_key or key_id: is required"}

Ready = Callable[..., RateLimitError | None]


def _of_threads(target: str, timeout: float, **options: Any) -> RateLimitError | None:  # noqa: ANN401
    with RateLimitClient(target, **options) as client:
        try:
            client.ready(timeout)
        except RateLimitError as error:
            assert client.failures == Failures()
            return error
    return None


def _of_asyncio(target: str, timeout: float, **options: Any) -> RateLimitError | None:  # noqa: ANN401
    async def ready() -> RateLimitError | None:
        async with AsyncRateLimitClient(target, **options) as client:
            try:
                await client.ready(timeout)
            except RateLimitError as error:
                assert client.failures == Failures()
                return error
        return None

    with ThreadPoolExecutor(1) as other_thread:  # this thread has the loop of the tests
        return other_thread.submit(asyncio.run, ready()).result()


@pytest.fixture(params=[_of_threads, _of_asyncio], ids=["threads", "asyncio"])
def ready(request: pytest.FixtureRequest) -> Ready:
    """`ready` of a client of each kind, made for the target and closed then. Returns the error that it raised."""
    kind: Ready = request.param
    return kind


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A key and a certificate for localhost that nobody trusts."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost"
    subprocess.run([*make.split(), "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return key.read_bytes(), Path(certificate).read_bytes()


@pytest.fixture
def with_tls(certificate: tuple[bytes, bytes]) -> Iterator[ScriptedServer]:
    """A server with TLS."""
    server = ScriptedServer(grpc.ssl_server_credentials([certificate]))
    yield server
    server.close()


def _verify(error: RateLimitError | None, code: grpc.StatusCode, target: str, wrong: str) -> None:
    assert error is not None
    assert (error.code, error.message.partition(" (")[0]) == (code, f"{target} is not ready: {wrong}."), error.message


def test_a_refused_connection(ready: Ready) -> None:
    """That nothing listens there is reported after the timeout, since the service may be starting."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        target = f"127.0.0.1:{probe.getsockname()[1]}"
    started = time.monotonic()
    error = ready(target, 0.5)
    assert 0.3 < time.monotonic() - started < 5
    wrong = "the connection is refused. Check the port, and that the service runs there"
    _verify(error, grpc.StatusCode.UNAVAILABLE, target, wrong)


def test_a_name_that_does_not_exist(ready: Ready) -> None:
    """A name that cannot be resolved is named as that."""
    wrong = "its name cannot be resolved. Check its spelling, and the DNS of this machine"
    _verify(ready("nowhere.invalid:1", 0.5), grpc.StatusCode.UNAVAILABLE, "nowhere.invalid:1", wrong)


def test_a_certificate_that_is_not_trusted(ready: Ready, with_tls: ScriptedServer) -> None:
    """A handshake that fails is named as that."""
    target = f"localhost:{with_tls.port}"
    wrong = (
        "the TLS handshake failed. Check the option tls: "
        "that both sides use TLS, and that the client trusts the certificate"
    )
    _verify(ready(target, 0.5, tls=True), grpc.StatusCode.UNAVAILABLE, target, wrong)


def test_a_client_without_tls_at_a_server_with_it(ready: Ready, with_tls: ScriptedServer) -> None:
    """The server closes the connection, and TLS is named as what may be missing."""
    target = f"localhost:{with_tls.port}"
    wrong = "it closes the connection. If it has TLS, set the option tls"
    _verify(ready(target, 0.5), grpc.StatusCode.UNAVAILABLE, target, wrong)


def test_a_client_with_tls_at_a_server_without_it(ready: Ready, scripted: ScriptedServer) -> None:
    """The handshake fails."""
    wrong = (
        "the TLS handshake failed. Check the option tls: "
        "that both sides use TLS, and that the client trusts the certificate"
    )
    _verify(ready(scripted.target, 0.5, tls=True), grpc.StatusCode.UNAVAILABLE, scripted.target, wrong)


def test_a_server_that_never_accepts(ready: Ready, scripted: ScriptedServer) -> None:
    """A connection that never comes up is no answer."""
    proxy = LateProxy(scripted.port, None)
    wrong = (
        "no answer. Check that the service runs there, that no firewall is in the way, "
        "and that both sides use TLS or neither"
    )
    _verify(ready(proxy.target, 0.5), grpc.StatusCode.DEADLINE_EXCEEDED, proxy.target, wrong)
    proxy.close()


def test_a_service_that_starts_meanwhile(ready: Ready, scripted: ScriptedServer) -> None:
    """A service that answers within the timeout is ready, with the token of the client sent."""
    proxy = LateProxy(scripted.port, 0.3)
    scripted.script([_ANSWER] * 2)
    assert ready(proxy.target, 10, connections=2, token="rlt_1") is None
    assert scripted.tokens == ["Bearer rlt_1"] * 2
    proxy.close()
