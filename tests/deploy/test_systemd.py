"""deploy/systemd: units that systemd accepts, and that are as closed as the service allows."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy import restricted
from deploy.files import DEPLOY, FULL, SECRETS, SETTINGS
from deploy.restricted import directives
from fixtures.dev_server import PROGRAM
from fixtures.served import PLANS, Server, launch, make_settings, seed
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as pb2_grpc
from ratelimit_service.management.tokens import Role

SYSTEMD = DEPLOY / "systemd"
UNITS = ["ratelimit-service", "ratelimit-service-migrate"]
MAX_EXPOSURE = 1.1
"""By `systemd-analyze security`, of 10: what is left is the network, which both need."""

SERVER = SYSTEMD / "ratelimit-service.service"
INSTALLED = "/opt/ratelimit-service/bin/ratelimit-service"

with_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here: units are not verified by it"
)


@with_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_accepts_the_unit(unit: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` reports nothing: no directive is misspelt, and no value invalid."""
    program = tmp_path / "ratelimit-service"
    program.symlink_to(sys.executable)
    path = tmp_path / f"{unit}.service"
    path.write_text((SYSTEMD / path.name).read_text().replace(INSTALLED, str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", "--man=no", path],
        capture_output=True,
        check=False,
        text=True,
    )
    ours = [line for line in done.stderr.splitlines() if unit in line]
    assert (done.returncode, ours) == (0, [])


@with_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_is_closed(unit: str) -> None:
    """Its exposure is no more than it was."""
    threshold = f"--threshold={round(10 * MAX_EXPOSURE)}"
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", threshold, SYSTEMD / f"{unit}.service"],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not here")
def test_the_user_is_made(tmp_path: Path) -> None:
    """systemd-sysusers accepts the file, and makes the user of the units."""
    (tmp_path / "etc").mkdir()
    subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", SYSTEMD / "ratelimit-service.sysusers"],
        check=True,
        capture_output=True,
    )
    assert re.search("^ratelimit:", (tmp_path / "etc" / "passwd").read_text(), re.MULTILINE)
    assert {name for unit in UNITS for name in directives(SYSTEMD / f"{unit}.service")["User"]} == {"ratelimit"}


def test_a_server_has_time_to_drain() -> None:
    """SIGTERM goes to the supervisor alone, which gets longer than the drain in the settings beside it."""
    unit = directives(SERVER)
    drain = int(re.findall(r"^RATELIMIT_DRAIN_TIMEOUT=(\d+)$", (SYSTEMD / "environment").read_text(), re.MULTILINE)[0])
    assert int(unit["TimeoutStopSec"][0]) >= 2 * drain + 10
    assert unit["KillMode"] == ["mixed"]


def test_the_folder_is_where_the_server_writes() -> None:
    """Its TMPDIR is the folder that systemd makes for it, which only its user can enter."""
    unit = directives(SERVER)
    assert unit["Environment"] == [f"TMPDIR=/run/{unit['RuntimeDirectory'][0]}"]
    assert unit["RuntimeDirectoryMode"] == ["0700"]


def test_every_setting_exists() -> None:
    """Each variable in the example, commented out or not, is a setting, and the secret ones are empty."""
    lines = re.findall(r"^(?:# )?(RATELIMIT_\w+)=(.*)$", (SYSTEMD / "environment").read_text(), re.MULTILINE)
    assert {name for name, _ in lines} - SETTINGS == set()
    assert {value for name, value in lines if name in SECRETS} == {""}


@pytest.fixture(params=["envoy", "grpcio"] if FULL else ["envoy"])
def restricted_server(
    request: pytest.FixtureRequest, migrated_database_url: Callable[[], str], valkey_url: str, tmp_path: Path
) -> Iterator[Server]:
    """A server under what its unit restricts: with the transport that needs more, by make test-deploy with either."""
    folder = Path(tempfile.mkdtemp(prefix="run-", dir="/tmp"))
    program = tmp_path / "ratelimit-service"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{restricted.__file__}" "{SERVER}" "{PROGRAM}" "$@"\n')
    program.chmod(0o755)
    settings = make_settings(migrated_database_url(), valkey_url, request.param, protect_checks=True, store_timeout=2)
    tokens = asyncio.run(seed(settings))
    server = launch(settings, tokens, tmp_path / "log", {"TMPDIR": str(folder)}, program)
    yield server
    server.close()
    shutil.rmtree(folder)


@with_systemd
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can restrict a process as systemd does")
def test_a_server_works_in_its_unit(restricted_server: Server) -> None:
    """Under the unit's filters, without a capability, with a file system that is read-only, it decides and drains."""
    server = restricted_server
    server.wait_for_output("ratelimit-service serves on")
    (status,) = {
        re.sub(
            r"(?s).*\nCapBnd:\s(\w+)\n.*\nSeccomp:\s(\d)\n.*", r"\1 \2", Path(f"/proc/{each.pid}/status").read_text()
        )
        for each in server.workers()
    }
    assert status == "0000000000000000 2"
    stub = pb2_grpc.RateLimitServiceStub(server.channel)
    plan = admin_pb2.ManagePlanRequest(create={"plan": {"name": "once", "limits": PLANS["once"]}})
    server.manage().ManagePlan(plan, metadata=server.as_admin)
    _, secret = server.key()
    decided = stub.CheckLimit(pb2.CheckLimitRequest(api_key=secret), metadata=as_gateway(server), timeout=5)
    assert (decided.allowed, decided.source) == (True, pb2.CheckLimitResponse.STORE)
    server.close_channel()
    assert server.stop() == 0
    assert "not permitted" not in server.output
    assert "Read-only" not in server.output


def as_gateway(server: Server) -> tuple[tuple[str, str], ...]:
    """The metadata of a gateway's call."""
    return (("authorization", f"Bearer {server.tokens[Role.GATEWAY]}"),)
