"""The operations port of whole servers: what probes see while stores and processes fail."""

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import psutil
import pytest

from fixtures.postgres import OwnPostgres
from fixtures.served import START_SECONDS, Serve, Server, free_address, launch, make_settings
from operations.probe import ask, wait_for
from ratelimit_service.devstores.valkey import EmbeddedValkey
from server.streams import open_stream

StartOwn = Callable[..., Server]
OLD = {"RATELIMIT_METRICS_LISTEN": "127.0.0.1:9999"}
both_transports = pytest.mark.parametrize("transport", ["grpcio", "envoy"])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """The bucket store of `servers`."""
    valkey = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    valkey.start()
    yield valkey
    valkey.stop()


@pytest.fixture(scope="module")
def servers(serve: Serve, store: EmbeddedValkey) -> Callable[[str], Server]:
    """The server of a transport, with two workers: for tests after which it is as before."""

    @cache
    def start(transport: str) -> Server:
        listen = free_address()
        return serve(transport, workers=2, redis_url=store.url, operations_listen=listen, drain_timeout=20)

    return start


@pytest.fixture
def server(servers: Callable[[str], Server]) -> Server:
    """The one of grpcio."""
    return servers("grpcio")


@both_transports
def test_a_server_that_serves_is_ready(servers: Callable[[str], Server], transport: str) -> None:
    """Once a server reports that it serves, /readyz is 200, and the metrics count its workers."""
    server = servers(transport)
    answer = ask(server.settings.operations_listen, "/readyz")
    assert (answer.status, answer.text) == (200, "ready\n")
    answer = ask(server.settings.operations_listen, "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "\nratelimit_workers 2.0\n" in answer.text


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metrics/x", "//readyz", "/READYZ", "/x", "/consolex"])
def test_unknown_paths(server: Server, path: str) -> None:
    """Every path but these and the console's is 404, and none redirects."""
    assert ask(server.settings.operations_listen, path).status == 404


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/status"])
def test_methods(server: Server, path: str) -> None:
    """GET and HEAD are answered, any other method is 405."""
    assert ask(server.settings.operations_listen, path).status == 200
    answer = ask(server.settings.operations_listen, path, "HEAD")
    assert (answer.status, answer.text) == (200, "")
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "NONSENSE"):
        answer = ask(server.settings.operations_listen, path, method)
        assert (answer.status, set(answer.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})


@both_transports
def test_a_bucket_store_that_hangs(servers: Callable[[str], Server], store: EmbeddedValkey, transport: str) -> None:
    """While Valkey hangs the server is degraded, and ready: it decides. When it is back, so is `ready`."""
    address = servers(transport).settings.operations_listen
    frozen = psutil.Process(store.pid)
    frozen.suspend()
    try:
        wait_for(address, 200, "degraded: redis does not answer, though connections are accepted, calls are decided by")
        assert ask(address, "/healthz").status == 200
    finally:
        frozen.resume()
    wait_for(address, 200, "ready")


def test_postgres_is_down(own_server: StartOwn, own_postgres: OwnPostgres) -> None:
    """A server without Postgres is degraded. An operations process that starts meanwhile serves, and mends itself."""
    server = own_server("grpcio", database_url=own_postgres.server.url, operations_listen=free_address())
    address = server.settings.operations_listen
    port = own_postgres.server.port
    own_postgres.server.stop()
    wait_for(address, 200, "degraded: postgres refuses connections, known keys are decided")
    server.operations().kill()
    server.wait_for_output("process=operations", times=3)  # serves, ended by itself, serves
    wait_for(address, 200, "degraded: the operations process could not open its stores")
    assert "\nratelimit_workers 1.0\n" in ask(address, "/metrics").text
    own_postgres.start_on(port)
    wait_for(address, 200, "ready")


def test_workers_that_hang_or_are_gone(server: Server) -> None:
    """Neither counts as serving; without any worker the server is not ready, but lives, and recovers."""
    address = server.settings.operations_listen
    first, second = server.workers()
    first.suspend()
    wait_for(address, 200, "degraded: 1 of 2 workers serve")
    wait_for(address, 200, "ready")
    for end in (psutil.Process.suspend, psutil.Process.kill):
        for worker in server.workers():
            end(worker)
        wait_for(address, 503, "not ready: no worker serves")
        assert ask(address, "/healthz").status == 200
        wait_for(address, 200, "ready")
    assert not {first.pid, second.pid} & {worker.pid for worker in server.workers()}


@both_transports
def test_a_rolling_restart_is_not_noticed(servers: Callable[[str], Server], transport: str) -> None:
    """During SIGHUP, in which the operations process is replaced too, each probe is answered with `ready`."""
    server = servers(transport)
    address, before = server.settings.operations_listen, server.operations().pid
    server.process.send_signal(signal.SIGHUP)
    seen = set()
    while "rolling restart done" not in server.output:
        seen.add(ask(address, "/readyz")[:2])
    assert seen == {(200, "ready\n")}
    assert server.operations().pid != before
    assert "\nratelimit_workers 2.0\n" in ask(address, "/metrics").text


def test_an_operations_process_that_dies(server: Server) -> None:
    """It is started again, and a probe that came meanwhile is answered; its end touches no worker."""
    workers = {worker.pid for worker in server.workers()}
    server.operations().kill()
    assert ask(server.settings.operations_listen, "/healthz").status == 200
    wait_for(server.settings.operations_listen, 200, "ready")
    assert {worker.pid for worker in server.workers()} == workers


def test_without_a_port(own_server: StartOwn) -> None:
    """The process runs without a port too: the background work of the control plane does not depend on one."""
    server = own_server("grpcio", operations_listen="")
    assert not server.operations().net_connections("tcp") or all(
        each.status != psutil.CONN_LISTEN for each in server.operations().net_connections("tcp")
    )


@pytest.mark.parametrize("name", ["operations_listen", "console_listen"])
def test_a_port_that_is_taken(
    migrated_database_url: Callable[[], str], valkey_url: str, tmp_path: Path, name: str
) -> None:
    """The server does not start, and the message has the setting to change."""
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        address = f"127.0.0.1:{foreign.getsockname()[1]}"
        settings = make_settings(migrated_database_url(), valkey_url, "grpcio", **{name: address})
        server = launch(settings, {}, tmp_path / "log")
        assert server.process.wait(START_SECONDS) != 0
    assert f"cannot listen on {address}: Address already in use" in server.output
    assert f"RATELIMIT_{name.upper()}" in server.output
    assert "Traceback" not in server.output


def test_what_start_up_reports(own_server: StartOwn) -> None:
    """A variable of an earlier version, and a console that is off because it would be sent in plain text."""
    port = free_address().rpartition(":")[2]
    server = own_server("grpcio", operations_listen=f"0.0.0.0:{port}", variables=OLD)
    assert "RATELIMIT_OPERATIONS_LISTEN=127.0.0.1:9999" in server.output
    assert f"RATELIMIT_OPERATIONS_LISTEN is 0.0.0.0:{port}, and beyond loopback the console needs TLS" in server.output
    assert ask(f"127.0.0.1:{port}", "/readyz").status == 200
    assert ask(f"127.0.0.1:{port}", "/console/").status == 404


def test_many_slow_peers_do_not_keep_probes_out(server: Server) -> None:
    """While a peer holds more connections than there may be, without ever completing a request, probes are answered."""
    address = server.settings.operations_listen
    host, _, port = address.rpartition(":")
    held = [socket.create_connection((host, int(port))) for _ in range(300)]
    for each in held:
        each.sendall(b"GET /metrics HTTP/1.1\r\nhost: ")
    began = time.monotonic()
    for _ in range(10):
        assert ask(address, "/readyz").status == 200
    assert time.monotonic() - began < 5
    assert server.operations().num_fds() < 200
    for each in held:
        each.close()


def test_a_bucket_store_that_is_gone(servers: Callable[[str], Server], store: EmbeddedValkey) -> None:
    """It is named as one that refuses connections. The last test of what needs the store, since it ends that."""
    store.stop()
    for transport in ("grpcio", "envoy"):
        wait_for(
            servers(transport).settings.operations_listen,
            200,
            "degraded: redis refuses connections, calls are decided by",
        )


@both_transports
async def test_sigterm(servers: Callable[[str], Server], transport: str) -> None:
    """From SIGTERM on a server is not ready, while calls that are open end; then the port is closed.

    The last test, since it ends the servers of the others.
    """
    server = await asyncio.to_thread(servers, transport)
    server.close_channel()
    address = server.settings.operations_listen
    _, api_key = await asyncio.to_thread(server.key, "wide")
    async with open_stream(server, api_key) as stream:
        server.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(wait_for, address, 503, "not ready: draining")
        assert (await asyncio.to_thread(ask, address, "/healthz")).status == 200
        await stream.finish()
    assert await asyncio.to_thread(server.process.wait, START_SECONDS) == 0
    with pytest.raises(ConnectionRefusedError):
        ask(address, "/healthz")
