"""The README: every command in it works, and its settings table is current."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from fixtures.dev_server import DevServer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SCRIPTS = Path(sysconfig.get_path("scripts"))

# Just enough of grpcurl for the README where it is not installed. It uses reflection, as grpcurl does.
GRPCURL = """#!/bin/sh
while [ $# -gt 2 ]; do
    case $1 in
        -plaintext) shift ;;
        -d) data=$2; shift 2 ;;
        -H) header=$2; shift 2 ;;
        *) echo "unsupported option of the grpcurl stand-in: $1" >&2; exit 64 ;;
    esac
done
exec buf curl --protocol grpc --http2-prior-knowledge ${header:+-H "$header"} -d "$data" "http://$1/$2"
"""


def blocks(language: str) -> list[str]:
    """The README's fenced blocks of this language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [block for name, block in fenced if name == language]


@pytest.fixture
def checkout(dev_server: DevServer, tmp_path: Path) -> Path:
    """A folder like a checkout after `make run`: `.ratelimit` is that of the running server."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for entry in ROOT.iterdir():
        if entry.name != ".ratelimit":
            (folder / entry.name).symlink_to(entry)
    (folder / ".venv").unlink(missing_ok=True)
    (folder / ".venv").symlink_to(SCRIPTS.parent)
    (folder / ".ratelimit").symlink_to(dev_server.data_dir)
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a user with grpcurl and without variables of this service."""
    tools = tmp_path / "tools"
    tools.mkdir()
    path = [str(tools), os.environ["PATH"], str(Path.home() / "go" / "bin")]
    if shutil.which("grpcurl", path=os.pathsep.join(path)) is None:
        (tools / "grpcurl").write_text(GRPCURL)
        (tools / "grpcurl").chmod(0o755)
        (tools / "buf").symlink_to(SCRIPTS / "buf")
    unset = {name: value for name, value in os.environ.items() if not name.startswith("RATELIMIT_")}
    return unset | {"PATH": os.pathsep.join(path)}


def test_every_command_works(dev_server: DevServer, checkout: Path, environment: dict[str, str]) -> None:
    """All shell blocks, pasted into one shell in order, succeed, and their decisions are allowed."""
    script = "".join(blocks("sh")).replace("localhost:50051", dev_server.listen)
    done = subprocess.run(
        ["sh", "-eux"], input=script, cwd=checkout, env=environment, capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert re.search(r'"reason": *"WITHIN_LIMIT"', done.stdout)
    assert "allowed: WITHIN_LIMIT" in done.stdout
    assert "would be allowed" in done.stdout
    assert re.search(r'"secret": *"rlk_live_', done.stdout)
    ran = [line for line in script.splitlines() if line.startswith((".venv/bin/", "grpcurl "))]
    assert len(ran) >= 15


def test_the_python_works(dev_server: DevServer, checkout: Path, environment: dict[str, str]) -> None:
    """The Python block, unchanged, prints a decision."""
    (block,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", block.replace("localhost:50051", dev_server.listen)],
        cwd=checkout,
        env=environment | {"PYTHONPATH": str(ROOT / "clients/python/src")},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"allowed with \d+ left\n", done.stdout)


def test_make_run_starts_dev(environment: dict[str, str]) -> None:
    """The README begins with its two commands, and `make run` is `ratelimit-service dev`."""
    assert [block.strip() for block in blocks("")] == ["make run", "make test"]
    shown = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "run"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=True,
        text=True,
    )
    assert shown.stdout.splitlines()[-1] == "exec .venv/bin/ratelimit-service dev"


def test_the_settings_table_is_current() -> None:
    """The table matches the settings: after a change of one, `make docs` regenerates it."""
    with_fresh_table = runpy.run_path(str(ROOT / "docs" / "settings_table.py"))["with_fresh_table"]
    assert with_fresh_table(README) == README
    assert "| `RATELIMIT_LISTEN` | `127.0.0.1:50051` |" in README


def test_links_have_targets() -> None:
    """Every link to a file of the repository has a target."""
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)\)", README)
    assert [target for target in targets if not (ROOT / target).exists()] == []
    assert len(targets) >= 5
