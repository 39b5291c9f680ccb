"""How the Python clients connect, distribute calls, stop waiting and reconnect."""

import asyncio
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from ratelimit_client import AsyncRateLimitClient, Failures, Origin, RateLimitClient, RateLimitError
from ratelimit_client._connections import KEEPALIVE_TIME_MS, channel_options
from ratelimit_client._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitResponse

from clients.cut_proxy import CutProxy
from clients.late_proxy import LateProxy
from clients.scripted_server import ScriptedServer
from ratelimit_service.settings import Settings
from ratelimit_service.transport.grpcio import server

_ALLOWED: dict[str, Any] = {"response": {"allowed": True, "reason": "WITHIN_LIMIT"}}
_DOWN: dict[str, Any] = {"status": "UNAVAILABLE"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_calls_rotate_through_the_connections(scripted: ScriptedServer) -> None:
    """Eight calls of a client with four connections come over four connections, two over each."""
    scripted.script([_ALLOWED] * 8)
    with RateLimitClient(scripted.target, deadline=10, connections=4) as client:
        client.wait_until_connected()
        for _ in range(8):
            client.check("rlk_test_a")
    assert sorted(scripted.peers.count(peer) for peer in set(scripted.peers)) == [2, 2, 2, 2]


async def test_calls_rotate_in_asyncio_too(scripted: ScriptedServer) -> None:
    """Eight calls at once of a client with four connections come over four connections, two over each."""
    scripted.script([_ALLOWED] * 8)
    async with AsyncRateLimitClient(scripted.target, deadline=10, connections=4) as client:
        await client.wait_until_connected()
        await asyncio.gather(*(client.check("rlk_test_a") for _ in range(8)))
    assert sorted(scripted.peers.count(peer) for peer in set(scripted.peers)) == [2, 2, 2, 2]


def test_a_retry_goes_over_another_connection(scripted: ScriptedServer) -> None:
    """The retry does not use the connection that just failed."""
    scripted.script([_DOWN, _ALLOWED])
    with RateLimitClient(scripted.target, deadline=10, connections=2) as client:
        client.wait_until_connected()
        assert client.check("rlk_test_a").origin is Origin.SERVICE
    first, second = scripted.peers
    assert first != second


def test_the_token_is_sent_with_every_attempt(scripted: ScriptedServer) -> None:
    """A client with a token sends it as a bearer token, on the retry too; one without sends none."""
    scripted.script([_DOWN, _ALLOWED, _ALLOWED])
    with (
        RateLimitClient(scripted.target, deadline=10, token="rlt_secret") as trusted,
        RateLimitClient(scripted.target, deadline=10) as anonymous,
    ):
        trusted.check("rlk_test_a")
        anonymous.check("rlk_test_a")
    assert scripted.tokens == ["Bearer rlt_secret", "Bearer rlt_secret", ""]


def test_a_target_without_a_server_fails_open_immediately() -> None:
    """A refused connection is UNAVAILABLE, well before a long deadline."""
    with RateLimitClient(f"127.0.0.1:{_free_port()}", deadline=20) as client:
        started = time.monotonic()
        assert client.check("rlk_test_a").origin is Origin.FALLBACK
        assert time.monotonic() - started < 10


def test_waiting_for_a_target_without_a_server_times_out() -> None:
    """Waiting for connections raises TimeoutError with a message."""
    with (
        RateLimitClient(f"127.0.0.1:{_free_port()}") as client,
        pytest.raises(TimeoutError, match=r"no connection to the rate limit service within 0\.2 s"),
    ):
        client.wait_until_connected(0.2)


async def test_waiting_in_asyncio_times_out_too() -> None:
    """Waiting for connections raises TimeoutError with a message."""
    async with AsyncRateLimitClient(f"127.0.0.1:{_free_port()}") as client:
        with pytest.raises(TimeoutError, match=r"no connection to the rate limit service within 0\.2 s"):
            await client.wait_until_connected(0.2)


def test_the_client_reconnects_soon_after_an_outage() -> None:
    """After two seconds of failures, the client has decisions again within two seconds of the service's start."""
    port = _free_port()
    with RateLimitClient(f"127.0.0.1:{port}") as client:
        ends = time.monotonic() + 2
        while time.monotonic() < ends:
            assert client.check("rlk_test_a").origin is Origin.FALLBACK
            time.sleep(0.05)
        handler = grpc.unary_unary_rpc_method_handler(
            lambda _request, _context: CheckLimitResponse(allowed=True, reason=CheckLimitResponse.WITHIN_LIMIT),
            response_serializer=CheckLimitResponse.SerializeToString,
        )
        server = grpc.server(ThreadPoolExecutor(2))
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("ratelimit.v1.RateLimitService", {"CheckLimit": handler}),)
        )
        server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        started = time.monotonic()
        while client.check("rlk_test_a").origin is not Origin.SERVICE:
            assert time.monotonic() - started < 2
            time.sleep(0.02)
        server.stop(0).wait()


async def test_a_cancelled_call_is_not_a_failure(scripted: ScriptedServer) -> None:
    """A cancelled task raises CancelledError: it does not fail open and is not counted."""
    scripted.script([{"hang": True}])
    async with AsyncRateLimitClient(scripted.target, deadline=20) as client:
        task = asyncio.create_task(client.check("rlk_test_a"))
        await asyncio.to_thread(scripted.wait_for_attempts, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.failures == Failures(0, 0)


def test_a_client_may_be_created_before_the_loop_runs(scripted: ScriptedServer) -> None:
    """A client created at import time, as middleware is, works in the loop that starts later."""
    client = AsyncRateLimitClient(scripted.target, deadline=10)
    scripted.script([_ALLOWED])

    async def use() -> bool:
        async with client:
            return (await client.check("rlk_test_a")).allowed

    with ThreadPoolExecutor(1) as other_thread:  # this thread already has a loop
        assert other_thread.submit(asyncio.run, use()).result() is True


def test_threads_share_one_client(scripted: ScriptedServer) -> None:
    """Eight concurrent threads each get their decisions, and the count misses no failure."""
    scripted.script([{"status": "INTERNAL"}] * 200)
    errors: list[str] = []
    lock = threading.Lock()

    def note(error: RateLimitError) -> None:
        with lock:
            errors.append(str(error))

    with RateLimitClient(scripted.target, deadline=20, on_failure=note) as client, ThreadPoolExecutor(8) as threads:
        decisions = list(threads.map(lambda _: client.check("rlk_test_a"), range(200)))
        assert all(decision.origin is Origin.FALLBACK for decision in decisions)
        assert client.failures.open == len(errors) == 200
    assert len({attempt.request_id for attempt in scripted.attempts}) == 200


def test_tls(tmp_path: Path) -> None:
    """With credentials the client uses TLS and trusts only their CA; with True it trusts the default ones."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*make.split(), *names, *files], check=True, capture_output=True)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    server = ScriptedServer(credentials)
    try:
        server.script([_ALLOWED])
        trusting = grpc.ssl_channel_credentials(certificate.read_bytes())
        with RateLimitClient(f"localhost:{server.port}", deadline=10, tls=trusting) as client:
            assert client.check("rlk_test_a").origin is Origin.SERVICE
        with RateLimitClient(f"localhost:{server.port}", deadline=10, tls=True) as client:
            assert client.check("rlk_test_a").origin is Origin.FALLBACK
    finally:
        server.close()


@pytest.fixture
def closing_server() -> Iterator[str]:
    """A server that closes each connection gracefully (GOAWAY) after 50 ms; its address."""
    handler = grpc.unary_unary_rpc_method_handler(
        lambda _request, _context: CheckLimitResponse(allowed=True, reason=CheckLimitResponse.WITHIN_LIMIT),
        response_serializer=CheckLimitResponse.SerializeToString,
    )
    options = [("grpc.max_connection_age_ms", 50), ("grpc.max_connection_age_grace_ms", 10_000)]
    server = grpc.server(ThreadPoolExecutor(8), options=options)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("ratelimit.v1.RateLimitService", {"CheckLimit": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def test_no_call_is_lost_when_connections_are_closed_gracefully(closing_server: str) -> None:
    """While connections are replaced, every call of eight threads gets a response of the service."""
    with RateLimitClient(closing_server, deadline=20) as client, ThreadPoolExecutor(8) as threads:
        client.wait_until_connected()
        origins = list(threads.map(lambda _: client.check("rlk_test_a").origin, range(4000)))
    assert set(origins) == {Origin.SERVICE}


async def test_no_call_is_lost_in_asyncio_either(closing_server: str) -> None:
    """While connections are replaced, every call of eight tasks gets a response of the service."""

    async def check(client: AsyncRateLimitClient) -> list[Origin]:
        return [(await client.check("rlk_test_a")).origin for _ in range(400)]

    async with AsyncRateLimitClient(closing_server, deadline=20) as client:
        await client.wait_until_connected()
        checked = await asyncio.gather(*(check(client) for _ in range(8)))
    assert {origin for origins in checked for origin in origins} == {Origin.SERVICE}


async def test_a_service_that_vanishes_is_noticed_without_a_call(scripted: ScriptedServer) -> None:
    """Connections over which nothing comes back are replaced, although nobody closes them, and calls work again."""
    scripted.script([_ALLOWED] * 4)
    proxy = CutProxy(scripted.port)
    try:
        with RateLimitClient(proxy.target, deadline=2, connections=1) as client:
            async with AsyncRateLimitClient(proxy.target, deadline=2, connections=1) as async_client:
                for _ in range(2):
                    assert client.check("rlk_test_a").origin is Origin.SERVICE
                    assert (await async_client.check("rlk_test_a")).origin is Origin.SERVICE
                    if proxy.accepted == 2:
                        proxy.cut()
                        ends = time.monotonic() + KEEPALIVE_TIME_MS / 1000 + 10
                        while proxy.accepted < 4:
                            assert time.monotonic() < ends, "the connections are replaced"
                            await asyncio.sleep(0.05)
                        await async_client.wait_until_connected()
                        client.wait_until_connected()
                assert client.failures == async_client.failures == Failures()
    finally:
        proxy.close()


def test_the_service_permits_the_pings() -> None:
    """It takes pings over connections without calls, and those of a client never come too early for it."""
    service = dict(server._options(Settings()))
    assert service["grpc.keepalive_permit_without_calls"] == 1
    assert service["grpc.http2.min_ping_interval_without_data_ms"] < KEEPALIVE_TIME_MS


def test_no_connection_is_closed_for_want_of_calls() -> None:
    """By default the library would close it after 30 minutes, which takes too long for a test."""
    assert dict(channel_options(1))["grpc.client_idle_timeout_ms"] == 2**31 - 1


def _assert_closed(error: RateLimitError) -> None:
    assert (error.code, error.message) == (grpc.StatusCode.FAILED_PRECONDITION, "the client is closed")


def test_a_call_in_flight_does_not_fail_open_when_the_client_is_closed(scripted: ScriptedServer) -> None:
    """It raises that the client is closed, be it sent already or waiting for the first connection."""
    scripted.script([{"hang": True}])
    never = LateProxy(scripted.port, None)
    try:
        for target, attempts in ((scripted.target, 1), (never.target, 0)):
            client = RateLimitClient(target, deadline=20, connect_timeout=2)
            with ThreadPoolExecutor(1) as other_thread:
                checking = other_thread.submit(client.check, "rlk_test_a")
                scripted.wait_for_attempts(attempts)
                time.sleep(0.2)
                client.close()
                error = checking.exception(10)
            assert isinstance(error, RateLimitError)
            _assert_closed(error)
            assert client.failures == Failures()
    finally:
        never.close()


async def test_a_call_in_flight_of_asyncio_does_not_fail_open_either(scripted: ScriptedServer) -> None:
    """The task gets the error, and is not cancelled, unless it was itself."""
    scripted.script([{"hang": True}, {"hang": True}])
    never = LateProxy(scripted.port, None)
    try:
        for target, attempts in ((scripted.target, 1), (never.target, 0)):
            client = AsyncRateLimitClient(target, deadline=20, connect_timeout=2)
            checking = asyncio.create_task(client.check("rlk_test_a"))
            await asyncio.to_thread(scripted.wait_for_attempts, attempts)
            await asyncio.sleep(0.2)
            await client.close()
            with pytest.raises(RateLimitError) as caught:
                await checking
            _assert_closed(caught.value)
            assert client.failures == Failures()
    finally:
        never.close()
    client = AsyncRateLimitClient(scripted.target, deadline=20)
    checking = asyncio.create_task(client.check("rlk_test_a"))
    await asyncio.to_thread(scripted.wait_for_attempts, 2)
    checking.cancel()
    await client.close()
    with pytest.raises(asyncio.CancelledError):
        await checking
