"""Planes apart: servers that decide by a role that only reads, and one that manages, on the same stores.

`doctor --server` examines them, and a server in which all is wrong.
"""

import asyncio
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from pydantic import SecretStr

from faults.stepped_clock import SteppedClock
from fixtures.dev_server import PROGRAM, START_SECONDS, free_address
from fixtures.http_calls import CHECK, call
from fixtures.rights import with_least_rights
from fixtures.served import Serve, Server, launch
from fixtures.valkey import StartValkey
from operations.probe import ask, wait_for
from ratelimit_service._gen.grpc.reflection.v1 import reflection_pb2
from ratelimit_service._gen.grpc.reflection.v1 import reflection_pb2_grpc as reflection_grpc
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2_grpc import KeyAdminServiceStub
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.bootstrap import open_services
from ratelimit_service.cli.doctor import examination
from ratelimit_service.cli.doctor.examination import MAX_USAGE_LAG, check_servers, findings_of
from ratelimit_service.cli.doctor.examined import Examined, NotExamined, examine
from ratelimit_service.cli.doctor.findings import Finding
from ratelimit_service.cli.errors import CommandError, Exit
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.degraded import MODES
from ratelimit_service.devstores.valkey import EmbeddedValkey
from ratelimit_service.errors import StartupError
from ratelimit_service.management.tokens import Role
from ratelimit_service.server.exposure import effective
from ratelimit_service.server.transport import Transport
from ratelimit_service.settings import Settings
from server.certificates import Authority

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
        http_listen=free_address(),
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
                "http_listen": free_address(),
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


def listed_by_v1(server: Server) -> set[str]:
    """The services that the newer version of reflection lists."""
    stub = reflection_grpc.ServerReflectionStub(server.channel)
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(stub.ServerReflectionInfo(iter([question]), timeout=5))
    return {service.name for service in answer.list_services_response.service}


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
        assert listed == listed_by_v1(server)
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest(service=own), timeout=5)
        assert next(watch).status == SERVING
        watch.cancel()
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


def test_each_plane_serves_its_own_by_http(apart: Apart) -> None:
    """What the plane has not is UNIMPLEMENTED there too, with the same words."""
    admin = apart.control.tokens[Role.ADMIN]
    for server in apart.servers:
        decision = call(server.settings.http_listen, CHECK, {"api_key": "rlk_live_x"})
        plans = call(server.settings.http_listen, "ManagePlan", {"list": {}}, admin)
        own, other = (plans, decision) if server is apart.control else (decision, plans)
        assert own.status == 200, own
        assert (other.status, other.body["code"], other.info["reason"]) == (501, "unimplemented", "NOT_SERVED")
        assert "and not here; call it at a server with RATELIMIT_PLANE=" in other.body["message"]


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


AHEAD = 30.0
"""Seconds by which the clock of the server is wrong that has everything wrong."""


def found(*addresses: str) -> dict[str, tuple[str, str]]:
    """The last finding on each subject."""
    return {each.subject: (each.severity.value, each.message) for each in check_servers(addresses)}


def until_found(address: str, subject: str, severity: str, message: str) -> dict[str, tuple[str, str]]:
    """Return all findings once there is this one, whose message has MESSAGE in it."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        findings = found(address)
        if findings.get(subject, ("", ""))[0] == severity and message in findings[subject][1]:
            return findings
        assert time.monotonic() < deadline, findings
        time.sleep(0.1)


def clocks_of(address: str) -> set[str]:
    """What is wrong with clocks. That of a store which does not answer at once is not compared."""
    clocks = [each.message.partition(":")[0] for each in check_servers([address]) if each.subject == "clock"]
    return {re.sub(r"(29|30)\.\d s", "half a minute", message) for message in clocks}


def test_servers_that_are_well(apart: Apart) -> None:
    """Nothing but `ok` about versions, planes, stores, clocks, ages and schema."""
    for server in apart.servers:
        findings = until_found(
            server.settings.operations_listen, "feed", "ok", "changes of keys and plans were in force"
        )
        assert {severity for severity, _ in findings.values()} == {"ok"}, findings
        assert set(findings) >= {"server", "postgres", "redis", "clock", "redis memory", "schema"}
        assert f"plane {server.settings.plane}, transport " in findings["server"][1]
        assert ("usage" in findings) == (server is apart.control)


def test_addresses_that_cannot_be_examined(apart: Apart) -> None:
    """One that is no address is a usage error; one without a server is a finding, and the exit code 1."""
    server = apart.decisions[1]
    for wrong in ("9464", "host", "ftp://host:1", "http://host:1/readyz", "http://me@host:1", "host:port"):
        with pytest.raises(CommandError) as raised:
            found(wrong)
        assert raised.value.exit_code is Exit.USAGE
        assert "the address of a server's operations port" in str(raised.value)
    closed = free_address()
    command = [PROGRAM, "doctor", "--server", closed, "--server", server.settings.operations_listen]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=60)
    assert done.returncode == 1
    assert f"error   {closed} server: {closed} cannot be reached: Connection refused; see that" in done.stdout
    assert f"ok      {server.settings.operations_listen} server: version" in done.stdout
    for each in apart.servers:
        by_grpc = found(each.address)
        assert by_grpc["server"] == ("ok", f"reports SERVING, plane {each.settings.plane}")
        assert (by_grpc["postgres"][0], by_grpc["redis"][0]) == ("ok", "ok")
        severity, message = by_grpc["operations port"]
        assert (severity, "is the gRPC port" in message) == ("warning", True)
        assert "RATELIMIT_OPERATIONS_LISTEN of that server, by default port 9464" in message
        with pytest.raises(NotExamined, match=r"not that of the gRPC port"):
            examine(each.address)


@pytest.fixture
def clock(tmp_path: Path) -> SteppedClock:
    """A clock that is wrong."""
    clock = SteppedClock(tmp_path / "offset")
    clock.set_offset(AHEAD)
    return clock


@pytest.fixture
def newer_version(tmp_path: Path) -> Path:
    """A folder by which Python takes the service for one of version 9.9.9."""
    folder = tmp_path / "newer" / "ratelimit_service-9.9.9.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: ratelimit-service\nVersion: 9.9.9\n")
    return folder.parent


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """It makes certificates that end in two days."""
    return Authority(tmp_path)


@pytest.fixture
def evicting(valkey: StartValkey) -> EmbeddedValkey:
    """A Redis that may evict buckets."""
    return valkey(**{"maxmemory-policy": "allkeys-lru"})


@pytest.fixture
def wrong(
    own_server: Callable[..., Server],
    evicting: EmbeddedValkey,
    clock: SteppedClock,
    newer_version: Path,
    authority: Authority,
) -> Server:
    """A server with a clock that is ahead, a version of its own, certificates about to end, and a Redis that evicts."""
    pair = authority.issue("server")
    return own_server(
        "grpcio",
        redis_url=evicting.url,
        operations_listen=free_address(),
        bucket_store_bytes=2**20,  # less than an empty Redis takes
        tls_certificate=pair.certificate,
        tls_key=pair.key,
        variables={**clock.variables(), "PYTHONPATH": str(newer_version)},
    )


def finding_with(server: Examined, subject: str, **metrics: float) -> Finding:
    """The finding on a subject, if the server had these metrics."""
    changed = replace(server, metrics={**server.metrics, **metrics})
    (finding,) = (each for each in findings_of(changed, datetime.now(UTC)) if each.subject == subject)
    return finding


def test_what_is_wrong_is_found(
    wrong: Server, apart: Apart, evicting: EmbeddedValkey, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each finding is about a real server in which that is the case, and says what to do."""
    address, other = wrong.settings.operations_listen, apart.decisions[0].settings.operations_listen
    findings = until_found(address, "eviction", "warning", "maxmemory-policy noeviction")
    assert findings["server"] == ("ok", "version 9.9.9, plane all, transport grpcio; 1 of 1 workers serve")
    assert findings["redis memory"][0] == "warning"
    severity, message = findings["certificate"]
    assert (severity, "RATELIMIT_TLS_CERTIFICATE" in message, "ends in 2 days" in message) == ("warning", True, True)
    assert abs(examine(address).metrics["ratelimit_certificate_end_time_seconds"] - time.time() - 2 * 86_400) < 3_600
    deadline = time.monotonic() + START_SECONDS
    while clocks_of(address) != {
        "that of postgres is half a minute behind that of the server",
        "that of redis is half a minute behind that of the server",
        "that of the server is half a minute ahead of that of this machine",
    }:
        assert time.monotonic() < deadline, clocks_of(address)
    both = found(address, other)
    assert (both["versions"][0], f"9.9.9 on {address}; finish the upgrade" in both["versions"][1]) == ("warning", True)
    assert both["clocks"][1].startswith(f"that of {address} is ")
    assert f" s ahead of that of {other}: keys end there so much earlier" in both["clocks"][1]

    monkeypatch.delenv("RATELIMIT_SERVER_CA", raising=False)
    with pytest.raises(NotExamined, match=r"its certificate is not accepted: .*RATELIMIT_SERVER_CA"):
        examine(f"https://{address}")
    monkeypatch.setenv("RATELIMIT_SERVER_CA", str(authority.certificate))
    server = examine(f"https://{address}")
    ended = {each.subject: each for each in findings_of(server, datetime.now(UTC) + timedelta(days=3))}
    assert ended["certificate"].severity.value == "error"
    assert "it is not accepted any more; put a renewed one in its place" in ended["certificate"].message
    usage = finding_with(server, "usage", ratelimit_usage_lag_seconds=MAX_USAGE_LAG + 1)
    assert (usage.severity.value, "is not in Postgres" in usage.message) == ("warning", True)
    webhook = finding_with(server, "webhook", ratelimit_alert_deliveries_pending=3)
    assert (webhook.severity.value, "does not accept them: 3. " in webhook.message) == ("warning", True)
    assert "is a gRPC port with TLS" in found(wrong.address)["operations port"][1]
    by_grpc = found(f"https://{wrong.address}")
    assert (by_grpc["server"][1], "ends in 2 days" in by_grpc["certificate"][1]) == ("reports SERVING, plane all", True)

    asyncio.run(_turn_off(wrong))
    until_found(address, "enforcement", "warning", "`ratelimit-service enforcement on` has limits refuse again")
    url = wrong.settings.database_url.get_secret_value()
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.execute("UPDATE schema_compatibility SET revision = '9999', works_since = '0010'")
    until_found(address, "schema", "warning", "is at revision 9999, and that server is of the older ")
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE schema_compatibility SET works_since = '9999'")
    until_found(address, "schema", "error", "install a newer version of ratelimit-service")
    wrong.workers()[0].kill()
    until_found(address, "server", "error", "not ready: no worker serves; its log says why")
    evicting.stop()
    _close_database(url)
    until_found(address, "redis", "error", "calls are decided by on_store_failure")
    until_found(address, "postgres", "error", "known keys are decided, unknown ones and changes are not")
    findings = until_found(address, "feed", "error", "until Postgres answers again")
    assert findings["schema"][0] == "warning"
    wrong.process.kill()  # its drain would wait for the stores, which are gone for good
    wrong.process.wait()


async def _turn_off(server: Server) -> None:
    async with open_services(server.settings) as services:
        await services.enforcement.turn_off("ann", 60 * MICRO)


def _close_database(url: str) -> None:
    """Have Postgres end the connections to a database, and accept no others."""
    server, _, name = url.rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))


def test_each_mode_has_a_remedy() -> None:
    """No way in which workers can be degraded is without advice of its own."""
    assert set(examination._MODES) == set(MODES)


def test_decisions_go_on_without_a_control_plane(apart: Apart) -> None:
    """Known keys and others are decided, and servers stay ready; they report that no change can come, doctor why."""
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
    for address in addresses:
        findings = found(address)
        assert (findings["server"][0], findings["feed"][0]) == ("ok", "error")
        assert "no server with the control plane runs" in findings["feed"][1]
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
