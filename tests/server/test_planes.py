"""Planes apart: servers that decide by a role that only reads, and one that manages, on the same stores."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from pydantic import SecretStr

from fixtures.dev_server import free_address
from fixtures.rights import with_least_rights
from fixtures.served import Serve, Server, launch
from operations.probe import ask, wait_for
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2_grpc import KeyAdminServiceStub
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.errors import StartupError
from ratelimit_service.server.exposure import effective
from ratelimit_service.server.transport import Transport
from ratelimit_service.settings import Settings

FOLLOWS_SECONDS = 1.0
"""Within which a change is in force on every server that decides."""

KEY_ADMIN = "ratelimit.v1.KeyAdminService"
RATE_LIMIT = "ratelimit.v1.RateLimitService"
SERVING = health_pb2.HealthCheckResponse.SERVING


@dataclass
class Apart:
    """A server of the control plane, and two that decide, one behind each transport."""

    control: Server
    decisions: list[Server]

    @property
    def servers(self) -> list[Server]:
        """All of them."""
        return [self.control, *self.decisions]


@pytest.fixture(scope="module")
def apart(
    serve: Serve,
    emptied_valkey_url: str,
    empty_database_url: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Apart]:
    """They share stores, on which each has the rights of its plane and no others."""
    least = with_least_rights(empty_database_url(), emptied_valkey_url)
    control = serve(
        "auto",
        plane="control",
        operations_listen=free_address(),
        database_url=least.database_url,
        redis_url=least.redis_url,
    )
    decisions = []
    for transport in ("envoy", "grpcio"):
        settings = control.settings.model_copy(
            update={
                "plane": "decision",
                "transport": transport,
                "database_url": SecretStr(""),
                "decision_database_url": SecretStr(least.decision_database_url),
                "listen": free_address(),
                "operations_listen": free_address(),
            }
        )
        decisions.append(launch(settings, control.tokens, tmp_path_factory.mktemp("decision") / "log"))
    try:
        for server in decisions:
            server.wait_for_output("ratelimit-service serves on")
        yield Apart(control, decisions)
    finally:
        for server in decisions:
            server.close()


def decide(server: Server, api_key: str) -> CheckLimitResponse:
    """One decision."""
    return RateLimitServiceStub(server.channel).CheckLimit(CheckLimitRequest(api_key=api_key), timeout=5)


def status_of(server: Server, service: str) -> object:
    """What the health service says of a service, or the code with which it does not know it."""
    try:
        request = health_pb2.HealthCheckRequest(service=service)
        return health_pb2_grpc.HealthStub(server.channel).Check(request, timeout=5).status
    except grpc.RpcError as error:
        return error.code()


def refusal(call: Callable[[], object]) -> str:
    """The message of the error that CALL raises, which is UNIMPLEMENTED."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    return str(caught.value.details())


def test_each_plane_serves_its_own(apart: Apart) -> None:
    """Methods, health and reflection are those of the plane; the others are UNIMPLEMENTED, and say who has them."""
    for server in apart.servers:
        own, other = (KEY_ADMIN, RATE_LIMIT) if server is apart.control else (RATE_LIMIT, KEY_ADMIN)
        listed = set(ProtoReflectionDescriptorDatabase(server.channel).get_services())
        assert listed & {KEY_ADMIN, RATE_LIMIT} == {own}
        assert ("envoy.service.auth.v3.Authorization" in listed) == (server is not apart.control)
        assert (status_of(server, ""), status_of(server, own)) == (SERVING, SERVING)
        assert status_of(server, other) is grpc.StatusCode.NOT_FOUND
        wait_for(server.settings.operations_listen, 200, "ready\n")
        has_console = ask(server.settings.operations_listen, "/console/").status != 404
        assert has_console == (server is apart.control)
    for server in apart.decisions:
        stub, plans = KeyAdminServiceStub(server.channel), admin_pb2.ManagePlanRequest(list={})
        message = refusal(lambda: stub.ManagePlan(plans, metadata=server.as_admin, timeout=5))  # noqa: B023
        assert message.endswith(
            "is served by the control plane, and not here; call it at a server with RATELIMIT_PLANE=control"
        )
        assert f"open: {server.address} plain text: decisions for anyone\n" in server.output
    assert "is served by the decision plane" in refusal(lambda: decide(apart.control, "rlk_live_x"))
    assert f"open: {apart.control.address} plain text: admin methods for tokens\n" in apart.control.output


def test_changes_are_followed(apart: Apart) -> None:
    """Keys that the control plane makes are decided at once, and what it changes is in force within a second."""
    key_id, api_key = apart.control.key()
    assert all(decide(server, api_key).allowed for server in apart.decisions)
    suspend = admin_pb2.ManageKeyRequest(suspend={"key_id": key_id})
    apart.control.manage().ManageKey(suspend, metadata=apart.control.as_admin, timeout=5)
    began = time.monotonic()
    for server in apart.decisions:
        while decide(server, api_key).reason != CheckLimitResponse.KEY_SUSPENDED:
            assert time.monotonic() < began + FOLLOWS_SECONDS
            time.sleep(0.02)


def test_decisions_go_on_without_a_control_plane(apart: Apart) -> None:
    """Known keys and others are decided, and servers stay ready; they report that no change can come."""
    (_, known), (_, other) = apart.control.key(), apart.control.key()
    assert all(decide(server, known).allowed for server in apart.decisions)
    assert apart.control.stop() == 0
    apart.control.close_channel()
    for server in apart.decisions:
        assert decide(server, known).source == decide(server, other).source == CheckLimitResponse.STORE
        assert status_of(server, RATE_LIMIT) == SERVING
    addresses = [server.settings.operations_listen for server in apart.decisions]
    for address in addresses:
        wait_for(address, 200, "degraded: changes of the last ")
    for server in apart.decisions:
        assert decide(server, other).allowed
        assert "permission denied" not in server.output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"plane": "decision", "admin_listen": "127.0.0.1:1"},
            "RATELIMIT_ADMIN_LISTEN is 127.0.0.1:1, a second port, and a server with RATELIMIT_PLANE=decision has one",
        ),
        ({"plane": "control", "admin_listen": "127.0.0.1:1"}, "set RATELIMIT_LISTEN=127.0.0.1:1, where it serves them"),
        ({"plane": "decision", "console_listen": "127.0.0.1:1"}, "has no console; leave it empty"),
        ({"plane": "control", "transport": "envoy"}, "set RATELIMIT_TRANSPORT to auto or grpcio"),
    ],
)
def test_settings_of_the_other_plane_are_refused(changes: dict[str, object], message: str) -> None:
    """No server starts with a port or transport that its plane has no use for; the message says what to do."""
    settings = Settings(**changes)
    with pytest.raises(StartupError) as raised:
        Transport.choose(effective(settings))
    assert message in str(raised.value)


def test_a_server_that_only_decides_forgets_the_role_that_writes() -> None:
    """Where both URLs are set none of its processes gets that of the control plane."""
    urls = {"database_url": "postgresql://control@h/d", "decision_database_url": "postgresql://decision@h/d"}
    kept = effective(Settings(plane="decision", **urls))
    assert kept.database_url.get_secret_value() == ""
    assert kept.url(kept.database_variable) == urls["decision_database_url"]
    alone = effective(Settings(plane="decision", database_url=SecretStr(urls["database_url"])))
    assert alone.url(alone.database_variable) == urls["database_url"]
