"""deploy/systemd: units that systemd accepts, and that are as closed as the service allows."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.files import DEPLOY, SECRETS, SETTINGS

SYSTEMD = DEPLOY / "systemd"
UNITS = ["ratelimit-service", "ratelimit-service-migrate"]
MAX_EXPOSURE = 1.1
"""By `systemd-analyze security`, of 10: what is left is the network, which both need."""

PROGRAM = "/opt/ratelimit-service/bin/ratelimit-service"

with_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here: units are not verified by it"
)


def directives(unit: str) -> dict[str, list[str]]:
    """The lines of a unit, by their names."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", (SYSTEMD / f"{unit}.service").read_text(), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


@with_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_accepts_the_unit(unit: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` reports nothing: no directive is misspelt, and no value invalid."""
    program = tmp_path / "ratelimit-service"
    program.symlink_to(sys.executable)
    path = tmp_path / f"{unit}.service"
    path.write_text((SYSTEMD / path.name).read_text().replace(PROGRAM, str(program)))
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
    assert {name for unit in UNITS for name in directives(unit)["User"]} == {"ratelimit"}


def test_a_server_has_time_to_drain() -> None:
    """SIGTERM goes to the supervisor alone, which gets longer than the drain in the settings beside it."""
    unit = directives("ratelimit-service")
    drain = int(re.findall(r"^RATELIMIT_DRAIN_TIMEOUT=(\d+)$", (SYSTEMD / "environment").read_text(), re.MULTILINE)[0])
    assert int(unit["TimeoutStopSec"][0]) >= 2 * drain + 10
    assert unit["KillMode"] == ["mixed"]


def test_the_folder_is_where_the_server_writes() -> None:
    """Its TMPDIR is the folder that systemd makes for it, which only its user can enter."""
    unit = directives("ratelimit-service")
    assert unit["Environment"] == [f"TMPDIR=/run/{unit['RuntimeDirectory'][0]}"]
    assert unit["RuntimeDirectoryMode"] == ["0700"]


def test_every_setting_exists() -> None:
    """Each variable in the example, commented out or not, is a setting, and the secret ones are empty."""
    lines = re.findall(r"^(?:# )?(RATELIMIT_\w+)=(.*)$", (SYSTEMD / "environment").read_text(), re.MULTILINE)
    assert {name for name, _ in lines} - SETTINGS == set()
    assert {value for name, value in lines if name in SECRETS} == {""}
