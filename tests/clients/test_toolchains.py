"""clients/install-toolchains reports what is missing for Java, and has CI install it from Debian."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from clients.conftest import ROOT


def _run(tmp_path: Path, commands: dict[str, str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it on a machine that has nothing but COMMANDS, shell scripts by name, besides Go, Node.js and sed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in {"go": "", "npm": "", **commands}.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    (folder / "sed").symlink_to(shutil.which("sed") or "")
    return subprocess.run(
        [ROOT / "clients" / "install-toolchains", tmp_path / "venv"],
        env={**{name: text for name, text in os.environ.items() if name != "CI"}, "PATH": str(folder), **environment},
        capture_output=True,
        check=False,
        text=True,
    )


@pytest.mark.parametrize(
    ("commands", "packages"),
    [
        ({}, " openjdk-17-jdk-headless maven"),
        ({"javac": "echo javac 17.0.15"}, " maven"),
        ({"javac": "echo javac 11.0.1", "mvn": ""}, " openjdk-17-jdk-headless"),
        ({"javac": "echo javac 1.8.0_402 >&2", "mvn": ""}, " openjdk-17-jdk-headless"),
        ({"javac": "echo javac 21", "mvn": ""}, ""),
    ],
    ids=["nothing", "no Maven", "JDK 11", "JDK 8", "all"],
)
def test_what_java_needs_is_reported(tmp_path: Path, commands: dict[str, str], packages: str) -> None:
    """A developer is given the command that installs what is missing, and an exit code of 1."""
    done = _run(tmp_path, commands)
    expected = f"the Java client needs a JDK >= 17 and Maven >= 3.6.3; on Debian: apt-get install{packages}\n"
    assert (done.returncode, done.stderr) == ((1, expected) if packages else (0, ""))


def test_ci_installs_what_java_needs(tmp_path: Path) -> None:
    """With CI=true it is installed, and the exit code is that of the installation."""
    done = _run(tmp_path, {"apt-get": f'echo "$@" >> {tmp_path}/ran'}, CI="true")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ran").read_text().splitlines() == [
        "update -qq",
        "install -qq --no-install-recommends openjdk-17-jdk-headless maven",
    ]
    failed = tmp_path / "failed"
    failed.mkdir()
    assert _run(failed, {"apt-get": "exit 100"}, CI="true").returncode == 100
