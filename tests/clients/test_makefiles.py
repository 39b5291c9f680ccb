"""The Makefiles of the clients, and what of the root's calls them, work in a folder with a blank in its path."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from clients.conftest import ROOT

_LOG = 'echo "$(basename "$0") $* in $(basename "$PWD")" >> "$RAN"\n'
_SERVICE = 'echo "service $RATELIMIT_SERVICE" >> "$RAN"\n'
_OUTPUT = 'mkdir -p "${3:-.}/ratelimit/v1" "${3:-.}/src/gen"\n'
_SCRIPTS = {
    ".venv/bin/python": _LOG,
    ".venv/bin/pytest": _LOG,
    ".venv/bin/buf": _LOG + _OUTPUT,
    "tests/install-tools": "",
    "tests/deploy/install-tools": 'echo "install-tools $*" >> "$RAN"\n',
    "clients/python/generate.sh": '"$PYTHON" generate.py && mkdir -p "${1:-src/ratelimit_client/_gen}"\n',
    "bin/go": _LOG + _SERVICE + 'mkdir -p "${GOBIN:-.}"\n',
    "bin/gofmt": "",
    "bin/npm": _LOG + _SERVICE + "mkdir -p node_modules\n",
    "bin/mvn": _LOG + _SERVICE,
}
"""What stands for the programs that are called: scripts that write down that they were."""
_LANGUAGES = ("python", "go", "typescript", "java")
_COPIED = ["Makefile", "clients/Makefile", *(f"clients/{name}/Makefile" for name in _LANGUAGES)]
_EXPECTED = {
    "clients": ["python -m pip wheel", "buf generate in go", "go build", "npm run --silent build", "mvn --batch-mode"],
    "test-clients": ["python -m pytest", "go test", "npm run --silent test", "mvn --batch-mode --quiet verify"],
    "bench-clients": ["python bench/overhead.py", "go run", "npm run --silent bench", "mvn --batch-mode --quiet test-"],
    "test-deploy": ["install-tools FOLDER/.venv\n", "pytest -s tests/deploy"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the Makefiles, and scripts in place of what they call."""
    root = tmp_path / "a folder"
    for name in [*_COPIED, "clients/typescript/generate.sh"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    for name, script in _SCRIPTS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"#!/bin/sh\nset -eu\nRATELIMIT_SERVICE=${{RATELIMIT_SERVICE:-}}\n{script}")
        (root / name).chmod(0o755)
    for name in ("pyproject.toml", "requirements.lock", "clients/typescript/package.json"):
        (root / name).touch()
    (root / "clients/typescript/package-lock.json").touch()
    (root / ".venv" / ".runs").touch()
    (root / ".venv" / ".installed").touch()
    return root


@pytest.mark.parametrize("target", _EXPECTED)
def test_a_folder_with_a_blank_in_its_path(folder: Path, target: str) -> None:
    """Each client is built, tested and measured there, with the programs of the virtual environment."""
    ran = folder / "ran"
    ran.touch()
    unset = {"CI", "MAKEFLAGS", "RATELIMIT_SERVICE"}
    environment = {name: text for name, text in os.environ.items() if name not in unset}
    environment |= {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "RAN": str(ran)}
    for one in ("clients", target):  # what is tested is what was generated
        done = subprocess.run(["make", one], cwd=folder, env=environment, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    log = ran.read_text()
    assert [call for call in _EXPECTED[target] if call.replace("FOLDER", str(folder)) not in log] == [], log
    if target == "test-clients":
        services = {line for line in log.splitlines() if line.startswith("service ") and line != "service "}
        assert services == {f"service {folder / '.venv/bin/ratelimit-service'}"}
