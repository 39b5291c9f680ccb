"""Servers are replaced as docs/guides/upgrade.md has it, with gateways that call all the time: no call fails.

test_two_versions.py upgrades and rolls back whole versions.
"""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from api.envoy.front import FrontEnvoy
from api.envoy.upstream import Upstream
from faults.gateways import GrpcGateways, Outcomes, SiteVisitors, front_of
from faults.sizes import FULL, REPORT
from fixtures.served import Server, free_address, launch, make_plans
from operations.probe import ask
from server.certificates import Authority

DELAY = 2.0
"""Seconds from SIGTERM until the port is closed. Envoy checks health once a second."""


async def test_a_server_is_replaced(own_server: Callable[..., Server], tmp_path: Path) -> None:
    """Neither clients of gRPC nor an Envoy loses a call. Until its port is closed the server says that it will be."""
    first = await asyncio.to_thread(
        own_server, "grpcio", operations_listen=free_address(), drain_delay=DELAY, store_timeout=1.0
    )
    _, api_key = await asyncio.to_thread(first.key, "wide")
    first.close_channel()  # no process may be started beside its threads
    own = {"listen": free_address(), "operations_listen": free_address(), "transport": "envoy"}
    second = launch(first.settings.model_copy(update=own), first.tokens, tmp_path / "second.log")
    upstream = Upstream()
    front = None
    try:
        await asyncio.to_thread(second.wait_for_output, "ratelimit-service serves on")
        addresses = [first.address, second.address]
        front = FrontEnvoy(front_of(addresses, upstream.port), tmp_path)
        outcomes = Outcomes()
        keys = {"wide": api_key}
        async with GrpcGateways(addresses, keys, outcomes, clients=3, deadline=1.0):
            with SiteVisitors(front, "wide", api_key, outcomes, visitors=2):
                await asyncio.sleep(0.5)
                outcomes.phase = "envoy ends"
                await _stop(second)
                if FULL:
                    again = launch(second.settings, second.tokens, tmp_path / "again.log")
                    second.process, second.log = again.process, again.log
                    await asyncio.to_thread(second.wait_for_output, "ratelimit-service serves on")
                    await asyncio.sleep(2)  # Envoy notices
                    outcomes.phase = "grpcio ends"
                    await _stop(first)
                await asyncio.sleep(0.5)
    finally:
        if front is not None:
            front.close()
        upstream.close()
        second.close()
    REPORT.append(f"servers replaced: {outcomes.calls} calls, errors {dict(outcomes.errors)}")
    assert not outcomes.errors
    assert list(outcomes.sources) == [1]


@pytest.mark.skipif(not FULL, reason="make test-faults")
async def test_with_tls_and_the_transport_grpcio(own_server: Callable[..., Server], tmp_path: Path) -> None:
    """There clients get no GOAWAY in time. Those that check health leave the server before its port is closed."""
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    first = await asyncio.to_thread(
        own_server,
        "grpcio",
        operations_listen=free_address(),
        drain_delay=DELAY,
        store_timeout=1.0,
        tls_certificate=pair.certificate,
        tls_key=pair.key,
    )
    pem = authority.certificate.read_bytes()
    first._channel = grpc.secure_channel(first.address, grpc.ssl_channel_credentials(pem))
    await asyncio.to_thread(make_plans, first)
    _, api_key = await asyncio.to_thread(first.key, "wide")
    first.close_channel()
    own = {"listen": free_address(), "operations_listen": free_address()}
    second = launch(first.settings.model_copy(update=own), first.tokens, tmp_path / "second.log")
    outcomes = Outcomes()
    try:
        await asyncio.to_thread(second.wait_for_output, "ratelimit-service serves on")
        gateways = GrpcGateways(
            [first.address, second.address], {"wide": api_key}, outcomes, clients=6, deadline=1.0, authority=pem
        )
        async with gateways:
            await asyncio.sleep(2)
            outcomes.phase = "one ends"
            assert await asyncio.to_thread(second.stop) == 0
            await asyncio.sleep(1)
    finally:
        second.close()
    REPORT.append(f"TLS, grpcio: {outcomes.calls} calls, errors {dict(outcomes.errors)}")
    assert not outcomes.errors


async def _stop(server: Server) -> None:
    """Stop it, and see that it goes on to serve for DELAY, but for its health."""
    server.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(DELAY / 4)
    async with grpc.aio.insecure_channel(server.address) as channel:  # the port is still open
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
    ready = await asyncio.to_thread(ask, server.settings.operations_listen, "/readyz")
    assert (ready.status, ready.text.strip()) == (503, "not ready: draining")
    assert await asyncio.to_thread(server.process.wait, 30) == 0, server.output
