"""The wheel, installed with all that it needs into an empty folder, runs `dev` there: `make test-dist`.

Not one of the tests that `make test` runs, since they install some 60 packages.
"""

import json
import os
import signal
import subprocess
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from fixtures.dev_server import free_address
from fixtures.pages import blocks
from release import dist
from release.versions import ROOT, version

SECONDS: Final = 120
PAGE: Final = "docs/install.md"
PIPX: Final = "pipx>=1.7,<2"


@pytest.fixture(scope="module")
def released() -> Iterator[Path]:
    """A folder with what `make dist` builds of the service. Root runs Postgres as another user, who has to enter it."""
    with tempfile.TemporaryDirectory(prefix="a release of ratelimit ") as folder:
        os.chmod(folder, 0o711)  # noqa: PTH101  it is a text
        out = Path(folder) / "dist"
        out.mkdir()
        dist.service(out)
        (out / "SHA256SUMS").write_text(dist.sums(out))
        yield out


@pytest.mark.timeout(900)
def test_the_wheel_runs_dev_in_an_empty_folder(released: Path) -> None:
    """Installed by the page's commands, without this repository, in a folder whose path has blanks.

    It starts its own stores, decides a call, says its version, and stops when asked to.
    """
    home = released.parent
    venv.create(home / "tools", symlinks=True, with_pip=True)
    pip = [str(home / "tools" / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "install", PIPX], check=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RATELIMIT_", "PYTHON"))}
    environment = inherited | {
        "PATH": f"{home / 'bin'}{os.pathsep}{home / 'tools' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PIPX_HOME": str(home / "pipx"),
        "PIPX_BIN_DIR": str(home / "bin"),
        "PIP_CONSTRAINT": (ROOT / "requirements.lock").as_uri(),  # a path would end at a blank
        "RATELIMIT_LISTEN": free_address(),
        "RATELIMIT_OPERATIONS_LISTEN": "",
    }
    installing, *_ = blocks(PAGE, "sh")
    subprocess.run(["sh", "-eu"], input=installing, text=True, cwd=released, env=environment, check=True)
    empty = home / "an empty folder"
    empty.mkdir(mode=0o711)
    runs("ratelimit-service", empty, environment)


def runs(program: str, folder: Path, environment: dict[str, str]) -> None:
    """Start `dev` in FOLDER, have it decide, and stop it."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [program, *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False, text=True)

    assert run("--version").stdout == f"ratelimit-service {version()}\n"
    log = folder.parent / "log"
    with log.open("wb") as out:
        server = subprocess.Popen([program, "dev"], cwd=folder, env=environment, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + SECONDS
        while "Request a decision" not in log.read_text():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        assert "Transport envoy: " in log.read_text()
        key = json.loads((folder / ".ratelimit" / "dev.json").read_text())["api_key"]
        checked = run("check", key, "--resource", "orders.create")
        assert checked.returncode == 0, checked.stderr
        assert "allowed: WITHIN_LIMIT" in checked.stdout
        assert "\n  ratelimit-service demo\n" in log.read_text()
        drawn = run("demo", "--seconds", "2")
        assert "\nallowed " in drawn.stdout, drawn.stderr
    finally:
        server.send_signal(signal.SIGTERM)
    assert server.wait(30) == 0


def test_the_bill_of_materials_has_what_is_installed(released: Path) -> None:
    """The service and all that it needs in production, each with the version of requirements.lock and none besides."""
    dist.bill_of_materials(released)
    document = json.loads((released / f"ratelimit-service-{version()}.cdx.json").read_text())
    assert document["metadata"]["component"]["name"] == "ratelimit-service"
    found = {part["name"].lower().replace("_", "-"): part["version"] for part in document["components"]}
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = dict(line.lower().replace("_", "-").split("==") for line in lines if not line.startswith("#"))
    assert {"grpcio", "sqlalchemy", "jinja2", "pyvoy"} <= found.keys()
    assert {"pytest", "pip", "mypy", "psutil"} & found.keys() == set()
    assert {name: number for name, number in found.items() if locked.get(name, number) != number} == {}


def test_the_same_commit_gives_the_same_wheel(released: Path, tmp_path: Path) -> None:
    """The wheel that is built twice has the same bytes."""
    dist.service(tmp_path)
    (first,), (second,) = (out.glob("*.whl") for out in (released, tmp_path))
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
