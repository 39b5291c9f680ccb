"""RATELIMIT_ADMIN_LISTEN: the admin methods have an address of their own, which a gateway never sees."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from fixtures.dev_server import free_address
from fixtures.http_calls import CHECK
from fixtures.http_calls import call as call_by_http
from fixtures.served import START_SECONDS, Server, launch, make_settings
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2_grpc as admin_grpc
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as grpc_stubs
from ratelimit_service.management.tokens import Role
from server.certificates import Authority

StartOwn = Callable[..., Server]
LIST = admin_pb2.ManagePlanRequest(list={})
SHOULD_RATE_LIMIT = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"


@pytest.fixture(scope="module", params=["grpcio", "envoy"])
def server(request: pytest.FixtureRequest, serve: StartOwn) -> Iterator[Server]:
    """A server of two workers, whose admin methods have a port of their own."""
    server = serve(request.param, workers=2, admin_listen=free_address(), http_listen=free_address())
    yield server
    server.close()


@pytest.fixture
def admin(server: Server) -> Iterator[grpc.Channel]:
    """A channel to the admin port."""
    with grpc.insecure_channel(server.settings.admin_listen) as channel:
        yield channel


def plans(channel: grpc.Channel, server: Server) -> list[str]:
    """The names of all plans, as an admin lists them."""
    stub = admin_grpc.KeyAdminServiceStub(channel)
    answer = stub.ManagePlan(LIST, metadata=server.as_admin, timeout=10, wait_for_ready=True)
    return [plan.name for plan in answer.list.plans]


def refusal(call: Callable[[], object]) -> grpc.RpcError:
    """The error that CALL raises."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def test_admin_methods_are_served_on_their_port_alone(server: Server, admin: grpc.Channel) -> None:
    """There they work with a token; on the gRPC port they are UNIMPLEMENTED, and the message keeps the address."""
    assert "free" in plans(admin, server)
    error = refusal(lambda: admin_grpc.KeyAdminServiceStub(admin).ManagePlan(LIST))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    for name in ("ManageKey", "ManagePlan", "ListAuditEvents", "QueryUsage", "TestAlert"):
        method = f"/ratelimit.v1.KeyAdminService/{name}"
        for metadata in ((), server.as_admin):
            error = refusal(lambda: server.channel.unary_unary(method)(b"", metadata=metadata))  # noqa: B023
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
            assert error.details().endswith(
                "is served at an address of its own, and not here; call it at the server's RATELIMIT_ADMIN_LISTEN"
            )
            shown = repr((error.details(), error.trailing_metadata()))
            assert "NOT_SERVED" in shown
            assert server.settings.admin_listen.rpartition(":")[2] not in shown


def test_http_has_what_the_gateways_port_has(server: Server) -> None:
    """It decides, and says of the admin methods what that says, also to an administrator."""
    http = server.settings.http_listen
    assert call_by_http(http, CHECK, {"api_key": "rlk_live_x"}).body["reason"] == "KEY_UNKNOWN"
    refused = call_by_http(http, "ManagePlan", {"list": {}}, server.tokens[Role.ADMIN])
    assert (refused.status, refused.info["reason"]) == (501, "NOT_SERVED")
    assert refused.body["message"].endswith("and not here; call it at the server's RATELIMIT_ADMIN_LISTEN")
    assert f"open: {http} HTTP, plain text: decisions for anyone\n" in server.output


def test_the_admin_port_decides_nothing(server: Server, admin: grpc.Channel) -> None:
    """Methods that decide are UNIMPLEMENTED on the admin port, and work on the gRPC port."""
    stub = grpc_stubs.RateLimitServiceStub(admin)
    check = pb2.CheckLimitRequest(api_key="rlk_live_0000000000000000_x")
    calls = [
        lambda: stub.CheckLimit(check),
        lambda: stub.BatchCheckLimit(pb2.BatchCheckLimitRequest(checks=[check])),
        lambda: list(stub.StreamCheckLimit(iter([pb2.StreamCheckLimitRequest(check=check)]))),
        lambda: admin.unary_unary(SHOULD_RATE_LIMIT)(b""),
        lambda: admin.unary_unary("/envoy.service.auth.v3.Authorization/Check")(b""),
    ]
    assert {refusal(call).code() for call in calls} == {grpc.StatusCode.UNIMPLEMENTED}
    decision = grpc_stubs.RateLimitServiceStub(server.channel).CheckLimit(check)
    assert decision.reason == pb2.CheckLimitResponse.KEY_UNKNOWN


def test_health_and_reflection_are_on_both(server: Server, admin: grpc.Channel) -> None:
    """Each port reports its health, and by reflection only the services that it serves."""
    ours = {"ratelimit.v1.KeyAdminService", "ratelimit.v1.RateLimitService"}
    for channel, service in (
        (admin, "ratelimit.v1.KeyAdminService"),
        (server.channel, "ratelimit.v1.RateLimitService"),
    ):
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert ours & set(ProtoReflectionDescriptorDatabase(channel).get_services()) == {service}


def test_what_is_open_is_a_line_for_each_port(server: Server) -> None:
    """The start says that the admin methods are on their own port, and no longer on the gRPC port."""
    assert f"open: {server.address} plain text: decisions for anyone\n" in server.output
    assert f"open: {server.settings.admin_listen} plain text: admin methods for tokens\n" in server.output


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_with_tls_both_ports_serve_tls_alone(own_server: StartOwn, transport: str, tmp_path: Path) -> None:
    """The admin port has the certificate of the gRPC port, and no plain text."""
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    files = {"tls_certificate": pair.certificate, "tls_key": pair.key}
    server = own_server(transport, admin_listen=free_address(), **files)
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
    with grpc.secure_channel(server.settings.admin_listen, credentials) as channel:
        assert plans(channel, server) == []
    with grpc.insecure_channel(server.settings.admin_listen) as channel:
        stub = admin_grpc.KeyAdminServiceStub(channel)
        error = refusal(lambda: stub.ManagePlan(LIST, metadata=server.as_admin, timeout=10))
        assert error.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_an_address_that_is_taken(own_server: StartOwn, transport: str, valkey_url: str, tmp_path: Path) -> None:
    """A second server does not get a part of the first one's admin calls: it does not start, and names the setting."""
    first = own_server("grpcio", admin_listen=free_address())
    url = first.settings.database_url.get_secret_value()
    second = make_settings(url, valkey_url, transport, admin_listen=first.settings.admin_listen)
    server = launch(second, {}, tmp_path / "log")
    assert server.process.wait(START_SECONDS) != 0
    assert f"cannot listen on {first.settings.admin_listen}: Address already in use" in server.output
    assert "RATELIMIT_ADMIN_LISTEN" in server.output


def test_one_address_for_both_is_refused(
    migrated_database_url: Callable[[], str], valkey_url: str, tmp_path: Path
) -> None:
    """The message says that the two settings are the same, not that another process holds the port."""
    settings = make_settings(migrated_database_url(), valkey_url, "grpcio")
    server = launch(settings.model_copy(update={"admin_listen": settings.listen}), {}, tmp_path / "log")
    assert server.process.wait(START_SECONDS) == 4
    assert f"RATELIMIT_ADMIN_LISTEN and RATELIMIT_LISTEN are both {settings.listen}" in server.output


def test_a_gateway_may_not_manage(server: Server, admin: grpc.Channel) -> None:
    """The port is no permission: a token of role gateway is refused there as it was before."""
    gateway = (("authorization", f"Bearer {server.tokens[Role.GATEWAY]}"),)
    error = refusal(lambda: admin_grpc.KeyAdminServiceStub(admin).ManagePlan(LIST, metadata=gateway))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


def test_a_restart_and_a_drain_lose_no_admin_call(server: Server) -> None:
    """While the processes are replaced one by one calls on the admin port succeed, and calls by HTTP.

    SIGTERM ends the server with 0. The last test, since it ends that of the others.
    """
    stop = Event()
    failures: list[object] = []
    done: list[list[str]] = []

    def call() -> None:
        with grpc.insecure_channel(server.settings.admin_listen) as channel:
            while not stop.wait(0.05):
                try:
                    done.append(plans(channel, server))
                    reply = call_by_http(server.settings.http_listen, CHECK, {"api_key": "rlk_live_x"})
                    failures.extend([] if reply.status == 200 else [reply])
                except (grpc.RpcError, OSError) as error:
                    failures.append(error)

    caller = Thread(target=call)
    caller.start()
    try:
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_output("rolling restart done")
    finally:
        stop.set()
        caller.join()
    assert (failures, bool(done)) == ([], True)
    assert server.stop() == 0
