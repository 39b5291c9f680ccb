"""A server needs the rights that `migrate --print-grants` prints, and no others."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from api.envoy.wire import OK, OVER_LIMIT, ask, authorize, bucket, descriptor, put_rules
from fixtures.counted import end_minute
from fixtures.rights import LeastRights, with_least_rights
from fixtures.served import Serve, Server
from fixtures.valkey import StartValkey
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service.buckets.redis.rights import acl
from ratelimit_service.cli.doctor.stores import check_decision_database
from ratelimit_service.postgres.grants import DECISION_TABLES, grants
from ratelimit_service.settings import Settings


@pytest.fixture
def redis_url(valkey: StartValkey) -> str:
    """A Valkey of the test's own, as its owner."""
    return valkey().url


@pytest.fixture
def least(redis_url: str, empty_database_url: Callable[[], str]) -> LeastRights:
    """Stores of the test's own, as servers see them."""
    return with_least_rights(empty_database_url(), redis_url)


@pytest.fixture(params=["envoy", "grpcio"])
def server(request: pytest.FixtureRequest, serve: Serve, least: LeastRights) -> Iterator[Server]:
    """A server behind each transport that has the least rights."""
    server = serve(request.param, **least._asdict())
    yield server
    server.close()


def test_a_server_with_the_least_rights(server: Server, least: LeastRights, redis_url: str) -> None:
    """It manages, decides, charges, refunds and counts: no right is missing."""
    key_id, key = server.key("once")
    domain = put_rules(server, {"key": "a", "limits": [bucket(1, 1)]})
    assert [ask(server, descriptor(("a", "1")), domain=domain).overall_code for _ in range(2)] == [OK, OVER_LIMIT]
    assert authorize(server, x_api_key=key).status.code == 0
    server.manage().ManageKey(admin_pb2.ManageKeyRequest(revoke={"key_id": key_id}), metadata=server.as_admin)
    deadline = time.monotonic() + 10
    while authorize(server, x_api_key=key).status.code == 0:
        assert time.monotonic() < deadline, "the revocation is not noticed"
        time.sleep(0.05)
    with psycopg.connect(least.database_url, autocommit=True) as connection:
        deadline = time.monotonic() + 30
        while connection.execute("SELECT count(*) FROM usage_minute").fetchone() == (0,):
            assert time.monotonic() < deadline, f"usage is not flushed:\n{server.output}"
            with redis.Redis.from_url(redis_url) as client:
                end_minute(client)
            time.sleep(0.5)
    assert "permission" not in server.output
    assert "NOPERM" not in server.output


def test_the_decision_role_reads_only(least: LeastRights) -> None:
    """The role that decides can change no table, and read none but those it needs."""
    with psycopg.connect(least.decision_database_url, autocommit=True) as connection:
        for table in DECISION_TABLES:
            connection.execute(f"SELECT * FROM {table} LIMIT 1".encode())
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"DELETE FROM {table}".encode())
        for table in ("audit_events", "console_sessions", "usage_day"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT * FROM {table}".encode())
        connection.execute("CREATE TEMPORARY TABLE own (n integer)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):  # it runs with the rights of the schema's owner
            connection.execute("CREATE TRIGGER t BEFORE INSERT ON own EXECUTE FUNCTION public.take_write_lock()")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE TABLE mine (a int)")


def test_the_control_role_changes_no_audit_event(least: LeastRights) -> None:
    """The role that manages adds audit events, and cannot rewrite them."""
    with psycopg.connect(least.database_url, autocommit=True) as connection:
        connection.execute("SELECT * FROM audit_events")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE audit_events SET actor = 'other'")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DROP TABLE keys")


def test_the_redis_user_has_its_own_keys(least: LeastRights) -> None:
    """The user of Redis reaches no other key, lists none, and cannot empty or reconfigure the store."""
    with redis.Redis.from_url(least.redis_url) as client:
        for command in (
            ("GET", "session:1"),
            ("KEYS", "*"),
            ("SCAN", "0"),
            ("FLUSHALL",),
            ("CONFIG", "SET", "maxmemory", "1"),
            ("ACL", "LIST"),
            ("SCRIPT", "FLUSH"),
            ("EVAL", "return redis.call('GET', KEYS[1])", "1", "session:1"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)


def test_grants_can_be_given_again(least: LeastRights, empty_database_url: Callable[[], str]) -> None:
    """The statements may be run after each migration."""
    with psycopg.connect(least.database_url) as connection:
        name = connection.info.dbname
    owner = empty_database_url().rpartition("/")[0]
    with psycopg.connect(f"{owner}/{name}", autocommit=True) as connection:
        connection.execute(grants().encode())
        connection.execute(grants().encode())


def test_what_doctor_finds(least: LeastRights, tmp_path: Path) -> None:
    """`doctor` approves of a role that only reads, and warns of one that may write."""

    def found(url: str) -> tuple[str, str]:
        (finding,) = check_decision_database(Settings(decision_database_url=url, data_dir=tmp_path))
        return finding.severity.value, finding.message

    assert found(least.decision_database_url) == ("ok", "its role reads, and can change nothing")
    severity, message = found(least.database_url)
    assert severity == "warning"
    assert "keys" in message
    assert found(least.decision_database_url.replace("for-tests", "wrong"))[0] == "error"


def test_the_acl_is_printed() -> None:
    """What is printed names the user, its keys and no command that is not needed."""
    text = acl()
    assert "ACL SETUSER ratelimit " in text
    assert "~{p*}:*" in text
    assert "+@" not in text
