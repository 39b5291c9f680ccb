"""The switch of all limits, on real servers: how soon it is everywhere, how it ends, and without Postgres."""

import json
import os
import stat
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from faults.alert_rules import firing
from faults.sizes import FACTOR
from fixtures.dev_server import PROGRAM, free_address
from fixtures.postgres import OwnPostgres
from fixtures.served import Serve, Server, launch
from fixtures.valkey import StartValkey
from ratelimit_service._gen.envoy.service.ratelimit.v3 import rls_pb2
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2_grpc import RateLimitServiceStub as EnvoyStub
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as checks_pb2
from ratelimit_service._gen.ratelimit.v1.enforcement_pb2 import ManageEnforcementRequest
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageKeyRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub

Response = checks_pb2.CheckLimitResponse
_WITHIN = 2.0 * FACTOR
"""Seconds within which a switch is in force on every server."""

_RULES = {
    "domain": "edge",
    "descriptors": [
        {"key": "path", "value": "/once", "limits": [{"name": "once", "quota": {"amount": 1, "window": "YEAR"}}]},
        {"key": "path", "value": "/never", "limits": [{"name": "never", "blocked": {}}]},
    ],
}
_DENY = [{"name": "one", "quota": {"amount": 1, "window": "YEAR"}}]


@dataclass
class Fleet:
    """Three servers on one Postgres and one Valkey, two with the transport grpcio and one with envoy."""

    servers: list[Server]
    keys: dict[str, str] = field(default_factory=dict)

    def create(self, plan: str, subject: str) -> admin_pb2.ManageKeyResponse.CreatedKey:
        """Create a key."""
        first = self.servers[0]
        request = ManageKeyRequest(create={"plan": plan, "subject": subject})
        return first.manage().ManageKey(request, metadata=first.as_admin).create

    def turn(self, **action: object) -> None:
        """Turn the switch."""
        first = self.servers[0]
        first.manage().ManageEnforcement(ManageEnforcementRequest(**action), metadata=first.as_admin)  # type: ignore[arg-type]

    def until(self, accepts: Callable[[Server], bool], within: float = _WITHIN) -> float:
        """Wait until ACCEPTS is true of every server. Returns the seconds that it took."""
        began = time.monotonic()
        for server in self.servers:
            while not accepts(server):
                assert time.monotonic() - began < within, f"not so on {server.address}:\n{server.output}"
                time.sleep(0.02)
        return time.monotonic() - began


def check(server: Server, api_key: str, **fields: object) -> Response:
    """Request a decision."""
    request = checks_pb2.CheckLimitRequest(api_key=api_key, resource="r", **fields)  # type: ignore[arg-type]
    return RateLimitServiceStub(server.channel).CheckLimit(request, timeout=5)


def describe(server: Server, path: str) -> "rls_pb2.RateLimitResponse":
    """Request a decision on a descriptor."""
    request = rls_pb2.RateLimitRequest(domain="edge", descriptors=[{"entries": [{"key": "path", "value": path}]}])
    return EnvoyStub(server.channel).ShouldRateLimit(request, timeout=5)


def is_over(server: Server, path: str) -> bool:
    """Whether a descriptor is over its limit."""
    return describe(server, path).overall_code == rls_pb2.RateLimitResponse.OVER_LIMIT


def operations(server: Server, path: str) -> str:
    """What the operations port answers."""
    with urllib.request.urlopen(f"http://{server.settings.operations_listen}{path}", timeout=5) as response:
        return str(response.read().decode())


def command(*arguments: str, code: int = 0) -> str:
    """Run the command line, with no setting of a server or token."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RATELIMIT_")}
    result = subprocess.run(
        [PROGRAM, "enforcement", *arguments], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout + result.stderr


def socket_of(server: Server) -> Path:
    """The path of its socket, as its log has it."""
    (line,) = (line for line in server.output.splitlines() if "enforcement.sock" in line)
    return Path(line.partition("socket=")[2].split()[0])


@pytest.fixture(scope="module")
def fleet(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The servers, and a domain with rules. Keys are each test's own."""
    first = serve("grpcio", operations_listen=free_address())
    with ExitStack() as stack:
        servers = [first]
        for transport in ("grpcio", "envoy"):
            changes = {"listen": free_address(), "operations_listen": free_address(), "transport": transport}
            settings = first.settings.model_copy(update=changes)
            servers.append(launch(settings, first.tokens, tmp_path_factory.mktemp("fleet") / "log"))
            stack.callback(servers[-1].close)
        for server in servers[1:]:
            server.wait_for_output("ratelimit-service serves on")
        manage = first.manage()
        rules = admin_pb2.ManageRulesRequest(replace={"rules": _RULES})  # type: ignore[dict-item]
        manage.ManageRules(rules, metadata=first.as_admin)
        plan = {"name": "deny", "limits": _DENY, "on_store_failure": "DENY"}
        manage.ManagePlan(admin_pb2.ManagePlanRequest(create={"plan": plan}), metadata=first.as_admin)  # type: ignore[arg-type]
        yield Fleet(servers)


def test_every_server_follows_within_two_seconds(fleet: Fleet) -> None:
    """Limits of keys and of descriptors refuse nothing on each of three servers, and refuse again once it is on."""
    key = fleet.create("deny", "follows").secret
    check(fleet.servers[0], key)
    describe(fleet.servers[0], "/once")
    for server in fleet.servers:
        assert not check(server, key).allowed
        fleet.until(lambda server: is_over(server, "/once") and is_over(server, "/never"))

    fleet.turn(turn_off={"duration": {"seconds": 600}, "comment": "drill"})
    fleet.until(lambda server: check(server, key).allowed)
    fleet.until(lambda server: not is_over(server, "/once") and not is_over(server, "/never"))
    for server in fleet.servers:
        decision = check(server, key)
        assert (decision.reason, decision.source) == (Response.WITHIN_LIMIT, Response.UNENFORCED)
        assert [(limit.name, limit.shadow, limit.would_deny) for limit in decision.limits] == [("one", True, True)]
        ready = operations(server, "/readyz")
        assert ready.startswith("degraded: enforcement is off until")
        assert "admin" not in ready
        assert "drill" not in ready
        fleet.until(lambda server: "\nratelimit_enforcement_off 1.0\n" in operations(server, "/metrics"))
        assert 'source="UNENFORCED"' in operations(server, "/metrics")
        assert "RatelimitEnforcementOff" in firing(operations(server, "/metrics"))
        server.wait_for_output("turned off by admin: drill")

    fleet.turn(turn_on={})
    fleet.until(lambda server: not check(server, key).allowed)
    fleet.until(lambda server: is_over(server, "/once") and is_over(server, "/never"))
    fleet.until(lambda server: operations(server, "/readyz") == "ready\n", 10 * FACTOR)


def test_keys_that_may_not_call_are_refused_as_ever(fleet: Fleet) -> None:
    """While limits are off, revoked, suspended and unknown keys are refused; a denied request is new."""
    first = fleet.servers[0]
    revoked, suspended, used = (fleet.create("deny", f"state-{number}") for number in range(3))
    for request in (
        ManageKeyRequest(revoke={"key_id": revoked.key.key_id}),
        ManageKeyRequest(suspend={"key_id": suspended.key.key_id}),
    ):
        first.manage().ManageKey(request, metadata=first.as_admin)
    check(first, used.secret)
    assert not check(first, used.secret, request_id="again").allowed
    fleet.turn(turn_off={"duration": {"seconds": 600}})
    fleet.until(lambda server: check(server, used.secret, request_id="again").allowed)
    unknown = "rlk_test_" + "0" * 16 + "_" + "0" * 33
    for server in fleet.servers:
        reasons = [check(server, key).reason for key in (revoked.secret, suspended.secret, unknown)]
        assert reasons == [Response.KEY_REVOKED, Response.KEY_SUSPENDED, Response.KEY_UNKNOWN]
    fleet.turn(turn_on={})


def test_it_ends_by_itself(fleet: Fleet) -> None:
    """Once its time is over, limits refuse on every server, and nobody had to do anything."""
    key = fleet.create("deny", "ends").secret
    check(fleet.servers[0], key)
    began = time.monotonic()
    fleet.turn(turn_off={"duration": {"seconds": 4}})
    fleet.until(lambda server: check(server, key).allowed, 3.5)
    fleet.until(lambda server: not check(server, key).allowed, 4 + _WITHIN)
    assert time.monotonic() - began >= 4
    fleet.until(lambda server: is_over(server, "/once"))
    fleet.servers[0].wait_for_output("enforcement is on again")


def test_a_server_that_starts_knows(fleet: Fleet, tmp_path: Path) -> None:
    """A server that starts while limits are off refuses nothing from its first decision on."""
    key = fleet.create("deny", "starts").secret
    check(fleet.servers[0], key)
    fleet.turn(turn_off={"duration": {"seconds": 600}})
    first = fleet.servers[0]
    changes = {"listen": free_address(), "operations_listen": "", "transport": "grpcio"}
    server = launch(first.settings.model_copy(update=changes), first.tokens, tmp_path / "log")
    try:
        server.wait_for_output("ratelimit-service serves on")
        assert check(server, key).source == Response.UNENFORCED
    finally:
        server.close()
        fleet.turn(turn_on={})


def test_without_a_bucket_store(serve: Serve, valkey: StartValkey) -> None:
    """With Valkey away, a plan that denies then allows while limits are off."""
    store = valkey()
    server = serve("grpcio", redis_url=store.url)
    fleet = Fleet([server])
    manage, plan = server.manage(), {"name": "deny", "limits": _DENY, "on_store_failure": "DENY"}
    manage.ManagePlan(admin_pb2.ManagePlanRequest(create={"plan": plan}), metadata=server.as_admin)  # type: ignore[arg-type]
    key = fleet.create("deny", "away").secret
    assert check(server, key).allowed
    store.stop()
    fleet.until(lambda server: check(server, key).reason == Response.DEGRADED_DENIED)
    fleet.turn(turn_off={"duration": {"seconds": 600}})
    fleet.until(lambda server: check(server, key).reason == Response.DEGRADED_ALLOWED)
    fleet.turn(turn_on={})
    fleet.until(lambda server: check(server, key).reason == Response.DEGRADED_DENIED)


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_one_server_without_postgres(serve: Serve, own_postgres: OwnPostgres, transport: str) -> None:
    """With Postgres stopped, the server's own switch works by its Unix socket, which only its user may open."""
    server = serve(transport, database_url=own_postgres.server.url, operations_listen=free_address(), workers=2)
    fleet = Fleet([server])
    _, key = server.key("once")
    for _ in range(16):  # connections, so that each worker knows the key
        server.close_channel()
        while check(server, key).allowed:
            pass
    path = socket_of(server)
    mode = path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    own_postgres.server.stop()
    with pytest.raises(grpc.RpcError) as refused:
        fleet.turn(turn_off={"duration": {"seconds": 600}})
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE

    assert "OFF" in command("off", "--for", "10m", "--local", "--socket", str(path))
    for _ in range(16):  # other connections, and so the other worker
        server.close_channel()
        fleet.until(lambda server: check(server, key).source == Response.UNENFORCED)
    fleet.until(lambda server: "enforcement is off until" in operations(server, "/readyz"))
    status = json.loads(command("status", "--local", "--socket", str(path), "--json"))
    assert (status["off"], status["listen"]) == (True, server.address)
    assert "86400" in command("off", "--for", "25h", "--local", "--socket", str(path), code=2)

    assert "on," in command("on", "--local", "--socket", str(path))
    for _ in range(16):
        server.close_channel()
        fleet.until(lambda server: not check(server, key).allowed)
