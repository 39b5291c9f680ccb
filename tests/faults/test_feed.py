"""The change feed cannot lie: whatever keeps changes from a worker shows everywhere, and is over when it is mended."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import psycopg
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from prometheus_client.parser import text_string_to_metric_families

from faults.alert_rules import firing
from faults.proxy import FaultProxy
from faults.sizes import FACTOR
from fixtures.dev_server import PROGRAM
from fixtures.postgres import OwnPostgres
from fixtures.served import Server, free_address
from operations.probe import ask, wait_for
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.management.tokens import Role

StartOwn = Callable[..., Server]


def metric(server: Server, name: str, **labels: str) -> float:
    """The value of a metric."""
    for family in text_string_to_metric_families(ask(server.settings.operations_listen, "/metrics").text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    raise AssertionError(f"no metric {name} with {labels}")


def alerts(server: Server) -> set[str]:
    """The alerts that would fire."""
    return firing(ask(server.settings.operations_listen, "/metrics").text)


def decide(server: Server, api_key: str) -> CheckLimitResponse:
    """One decision."""
    return RateLimitServiceStub(server.channel).CheckLimit(CheckLimitRequest(api_key=api_key), timeout=5)


def revoke(server: Server, key_id: str) -> None:
    """Revoke a key."""
    request = admin_pb2.ManageKeyRequest(revoke={"key_id": key_id})
    server.manage().ManageKey(request, metadata=server.as_admin, timeout=5)


def within(seconds: float, holds: Callable[[], bool]) -> float:
    """Wait until something holds, for SECONDS at most. Returns how long it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"not within {seconds:g} s"
        time.sleep(0.05)
    return time.monotonic() - began


def test_a_feed_that_stands_still_shows_everywhere(
    own_server: StartOwn, migrated_database_url: Callable[[], str]
) -> None:
    """Where what a worker reads does not come, it is degraded after 5 s in all places, and goes on deciding."""
    url = migrated_database_url()
    head, _, name = url.rpartition("/")
    with FaultProxy(int(head.rpartition(":")[2])) as proxy:
        through = f"{head.rpartition(':')[0]}:{proxy.port}/{name}"
        server = own_server(
            "grpcio", workers=2, operations_listen=free_address(), database_url=url, decision_database_url=through
        )
        address = server.settings.operations_listen
        key_id, api_key = server.key("wide")
        assert decide(server, api_key).allowed
        assert ask(address, "/readyz").text == "ready\n"
        assert metric(server, "ratelimit_change_feed_age_seconds") < 5
        assert alerts(server) == set()
        proxy.inject(half_open=True)
        began = time.monotonic()
        revoke(server, key_id)

        both = "are not in force: no heartbeat came through the change feed (2 of 2 workers)"
        within(10 * FACTOR, lambda: both in ask(address, "/readyz").text)
        assert time.monotonic() - began > 3
        assert ask(address, "/readyz").status == 200
        within(5 * FACTOR, lambda: metric(server, "ratelimit_degraded", mode="feed") == 1)
        assert metric(server, "ratelimit_change_feed_age_seconds") > 5
        assert alerts(server) - {"RatelimitStoreDown"} == {"RatelimitFeedOld", "RatelimitDegraded"}
        assert "warning server: degraded: " in doctor(server)
        health = HealthStub(server.channel).Check(HealthCheckRequest(service="ratelimit.v1.RateLimitService"))
        assert health.status == HealthCheckResponse.SERVING
        assert decide(server, api_key).allowed, "the revocation cannot be known"

        proxy.heal()
        within(5 * FACTOR, lambda: decide(server, api_key).reason == CheckLimitResponse.KEY_REVOKED)
        wait_for(address, 200, "ready")
        within(5 * FACTOR, lambda: metric(server, "ratelimit_degraded", mode="feed") == 0)
        server.close()


def doctor(server: Server) -> str:
    """What `doctor` prints about a server."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RATELIMIT_")}
    environment |= {
        f"RATELIMIT_{name.upper()}": value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)
        for name, value in server.settings
        if value is not None
    }
    done = subprocess.run([PROGRAM, "doctor"], env=environment, capture_output=True, text=True, check=False)
    return done.stdout


def test_a_restore_from_a_backup_is_noticed(own_server: StartOwn, own_postgres: OwnPostgres, tmp_path: Path) -> None:
    """What the backup says is in force again, and so is every change after it, although its number was there before."""
    home = own_postgres.home
    server = own_server("envoy", operations_listen=free_address(), database_url=own_postgres.server.url)
    (kept_id, kept), (_, later) = server.key("wide"), server.key("wide")
    port = own_postgres.server.port
    server.close_channel()  # no process may be started beside its threads
    own_postgres.server.stop()
    copy(home, tmp_path / "backup")
    own_postgres.start_on(port)
    within(30, lambda: _managed(server, kept_id))
    assert decide(server, kept).allowed, "from here on its revocation comes through the feed"
    for _ in range(20):
        server.key("wide")
    revoke(server, kept_id)
    within(5 * FACTOR, lambda: decide(server, kept).reason == CheckLimitResponse.KEY_REVOKED)
    assert decide(server, later).allowed

    server.close_channel()  # no process may be started beside its threads
    own_postgres.server.stop()
    copy(tmp_path / "backup", home)
    own_postgres.start_on(port)
    within(30, lambda: _managed(server, kept_id))
    within(10 * FACTOR, lambda: decide(server, kept).allowed)
    within(5 * FACTOR, lambda: metric(server, "ratelimit_change_feed_gaps_total", cause="went_back") >= 1)
    assert "RatelimitFeedWentBack" in alerts(server)
    assert "the change feed went back, as after a restore from a backup; everything is read again" in server.output
    revoke(server, kept_id)
    within(5 * FACTOR, lambda: decide(server, kept).reason == CheckLimitResponse.KEY_REVOKED)
    assert server.tokens[Role.ADMIN]


def test_a_restart_of_postgres_is_noticed(own_server: StartOwn, own_postgres: OwnPostgres) -> None:
    """What was read beside the feed may be of transactions that are lost then, and is read again."""
    server = own_server("envoy", operations_listen=free_address(), database_url=own_postgres.server.url)
    key_id, key = server.key("wide")
    url, port = own_postgres.server.url, own_postgres.server.port
    _set_state(url, key_id, "revoked")
    within(5 * FACTOR, lambda: decide(server, key).reason == CheckLimitResponse.KEY_REVOKED)
    _set_state(url, key_id, "active")  # past the API, so the feed says nothing: as if that transaction had been lost
    time.sleep(1.5)
    assert decide(server, key).reason == CheckLimitResponse.KEY_REVOKED
    server.close_channel()  # no process may be started beside its threads
    own_postgres.server.stop()
    own_postgres.start_on(port)
    within(10 * FACTOR, lambda: decide(server, key).allowed)
    within(5 * FACTOR, lambda: metric(server, "ratelimit_change_feed_gaps_total", cause="restarted") >= 1)
    assert "RatelimitFeedWentBack" not in alerts(server)


def _set_state(url: str, key_id: str, state: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE keys SET state = %s WHERE key_id = %s", (state, key_id))


def copy(source: Path, target: Path) -> None:
    """Copy a folder with the owners of its files, in place of one that is there."""
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-a", source, target], check=True)


def _managed(server: Server, key_id: str) -> bool:
    request = admin_pb2.ManageKeyRequest(get={"key_id": key_id})
    try:
        server.manage().ManageKey(request, metadata=server.as_admin, timeout=2)
    except grpc.RpcError:
        return False
    return True
