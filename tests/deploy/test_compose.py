"""deploy/compose: what the file may contain, and its secrets, by which real stores and a real server work together."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote
from typing import Any

import grpc
import psycopg
import pytest
import yaml

from deploy.files import DEPLOY, SECRET_FILES, SETTINGS, VERSION
from fixtures.dev_server import PROGRAM, START_SECONDS, free_address
from fixtures.valkey import StartValkey
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2_grpc as admin_grpc
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as pb2_grpc
from ratelimit_service.buckets.redis.rights import USER, rules

COMPOSE = DEPLOY / "compose"
CONTAINER = DEPLOY / "container"
FILE: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("ratelimit-service:")]


def test_every_setting_exists() -> None:
    """Each variable of our containers is a setting, or names the file of a secret one; no secret stands in the file."""
    for name in OURS:
        variables = SERVICES[name]["environment"]
        assert set(variables) - SETTINGS - SECRET_FILES == set()
        assert all(isinstance(value, str) for value in variables.values())
        files = {value for variable, value in variables.items() if variable in SECRET_FILES}
        assert files == {f"/run/secrets/{secret}" for secret in SERVICES[name]["secrets"]}
    assert OURS == ["migrate", "service"]


def test_nothing_is_open_beyond_loopback() -> None:
    """Ports are published on loopback only, those of the service alone, and the stores' network leads nowhere."""
    ports = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert ports.pop("service") == ["127.0.0.1:50051:50051", "127.0.0.1:9464:9464"]
    assert not any(ports.values())
    assert FILE["networks"]["stores"] == {"internal": True}
    assert {name for name, service in SERVICES.items() if service["networks"] != ["stores"]} == {"service"}


def test_every_reference_has_a_target() -> None:
    """Secrets, volumes, networks and services that are named exist, and every secret's file is one that is made."""
    made = set(re.findall(r"\$new/(\w+)", (COMPOSE / "make-secrets").read_text()))
    assert FILE["secrets"] == {name: {"file": f"secrets/{name}"} for name in made}
    for service in SERVICES.values():
        assert set(service.get("secrets", [])) <= made
        assert set(service["networks"]) <= set(FILE["networks"])
        assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= set(FILE["volumes"])
        assert set(service.get("depends_on", {})) <= set(SERVICES)
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == made


def test_the_containers_are_hardened() -> None:
    """Ours have a root that is read-only, no capability, and one place to write; none gains a privilege."""
    for name in OURS:
        service = SERVICES[name]
        assert (service["read_only"], service["cap_drop"], service["tmpfs"]) == (True, ["ALL"], ["/tmp:size=64m"])
        assert service["image"] == f"ratelimit-service:{VERSION}"
    assert all("no-new-privileges:true" in service["security_opt"] for service in SERVICES.values())


def test_what_starts_waits_for_what_it_needs() -> None:
    """Stores have health checks; the schema is migrated before a server starts, which has time to drain."""
    service = SERVICES["service"]
    conditions = {name: wait["condition"] for name, wait in service["depends_on"].items()}
    assert conditions == {
        "postgres": "service_healthy",
        "valkey": "service_healthy",
        "migrate": "service_completed_successfully",
    }
    assert {name for name, each in SERVICES.items() if "test" in each["healthcheck"]} == {*conditions, "service"} - {
        "migrate"
    }
    drain = int(service["environment"]["RATELIMIT_DRAIN_TIMEOUT"])
    assert int(service["stop_grace_period"].removesuffix("s")) >= 2 * drain + 10


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The folder that make-secrets makes."""
    shutil.copy(COMPOSE / "make-secrets", tmp_path)
    subprocess.run([tmp_path / "make-secrets"], check=True, capture_output=True)
    return tmp_path / "secrets"


def test_secrets_are_made_once(secrets: Path) -> None:
    """Nobody else can enter their folder, no two are the same, and a second run leaves them as they are."""
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    again = subprocess.run([secrets.parent / "make-secrets"], check=False, capture_output=True, text=True)
    assert (again.returncode, "exists already" in again.stderr) == (1, True)
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before
    assert before["database_url"] == f"postgresql://ratelimit:{before['postgres_password']}@postgres:5432/ratelimit"
    password = before["redis_url"].partition("ratelimit:")[2].partition("@")[0]
    assert before["valkey_acl"].splitlines() == [
        "user default off",
        f"user {USER} {' '.join(rules())} >{password}",
    ]
    assert len({before["postgres_password"], password}) == 2
    assert {path.name for path in secrets.parent.iterdir()} == {"make-secrets", "secrets"}


@pytest.fixture
def command(
    secrets: Path, valkey: StartValkey, empty_database_url: Callable[[], str], tmp_path: Path
) -> Callable[..., list[str]]:
    """The entry point of the image, with the settings of the service in compose.yaml, on real stores here."""
    store = valkey(aclfile=str(secrets / "valkey_acl"))
    url = (secrets / "redis_url").read_text()
    (secrets / "redis_url").write_text(url.replace("valkey:6379", f"127.0.0.1:{store.port}"))
    database = empty_database_url()
    server, _, name = database.rpartition("/")
    password = (secrets / "postgres_password").read_text()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name}_user LOGIN PASSWORD '{password}'".encode())
        connection.execute(f"GRANT ALL ON SCHEMA public TO {name}_user".encode())
    host = server.rpartition("@")[2].removeprefix("postgresql://")
    (secrets / "database_url").write_text(f"postgresql://{name}_user:{password}@{host}/{name}")
    entry_point = tmp_path / "ratelimit-service"
    text = (CONTAINER / "ratelimit-service").read_text()
    entry_point.write_text(text.replace("/opt/ratelimit-service/bin/ratelimit-service", quote(str(PROGRAM))))
    entry_point.chmod(0o755)
    settings = {
        variable: value.replace("/run/secrets", str(secrets))
        for variable, value in SERVICES["service"]["environment"].items()
    }
    return lambda *arguments: ["env", *(f"{name}={value}" for name, value in settings.items()), entry_point, *arguments]


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of this machine without settings, and addresses that are free here."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("RATELIMIT_")}
    return others | {
        "RATELIMIT_LISTEN": free_address(),
        "RATELIMIT_OPERATIONS_LISTEN": free_address(),
        "RATELIMIT_STORE_TIMEOUT": "2",
        "RATELIMIT_STORE_SLOW": "0.5",  # a machine that others use stands still for a moment now and then
    }


@pytest.fixture
def started(
    command: Callable[..., list[str]], environment: dict[str, str], tmp_path: Path
) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts `serve`, and ends it with the test."""
    processes = []

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("wb") as log:
            processes.append(subprocess.Popen(command("serve"), env=environment, stdout=log, stderr=subprocess.STDOUT))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_the_secrets_fit_together(
    command: Callable[..., list[str]],
    environment: dict[str, str],
    started: Callable[[], subprocess.Popen[bytes]],
    tmp_path: Path,
) -> None:
    """With them and the settings of compose.yaml a schema is migrated, a token made, and a call charged in Valkey.

    The health check fails before the server serves, and passes then. SIGTERM ends it with 0.
    """

    def run(*arguments: str) -> str:
        done = subprocess.run(command(*arguments), env=environment, capture_output=True, check=False, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def health() -> subprocess.CompletedProcess[str]:
        check = [sys.executable, "-IS", CONTAINER / "ready.py"]
        return subprocess.run(check, env=environment, capture_output=True, check=False, text=True)

    run("migrate")
    token = json.loads(run("admin-tokens", "create", "ops", "--role", "admin", "--json"))["token"]
    before = health()
    assert (before.returncode, before.stdout[:15]) == (1, "no answer from ")
    process = started()
    deadline = time.monotonic() + START_SECONDS
    while health().returncode != 0:
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.1)
    assert health().stdout == "ready\n"
    with grpc.insecure_channel(environment["RATELIMIT_LISTEN"]) as channel:
        admin, credentials = admin_grpc.KeyAdminServiceStub(channel), (("authorization", f"Bearer {token}"),)
        plan = {"name": "p", "limits": [{"name": "q", "quota": {"amount": 1, "window": "YEAR"}}]}
        admin.ManagePlan(admin_pb2.ManagePlanRequest(create={"plan": plan}), metadata=credentials)
        create = admin_pb2.ManageKeyRequest(create={"plan": "p", "subject": "s"})
        key = admin.ManageKey(create, metadata=credentials).create
        check = pb2.CheckLimitRequest(api_key=key.secret)
        decided = pb2_grpc.RateLimitServiceStub(channel).CheckLimit(check, timeout=5)
    assert (decided.allowed, decided.source) == (True, pb2.CheckLimitResponse.STORE)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
