"""The image's files, as far as they can be checked without building it: image.py builds and runs it."""

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from deploy.files import DEPLOY, ROOT, SECRETS, VERSION

CONTAINER = DEPLOY / "container"
CONTAINERFILE = (CONTAINER / "Containerfile").read_text()
ENTRY_POINT = CONTAINER / "ratelimit-service"
PROGRAM = "/opt/ratelimit-service/bin/ratelimit-service"


def test_the_linter_has_nothing_to_say() -> None:
    """Hadolint, which also checks the shell in it, finds nothing."""
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    found = subprocess.run([hadolint, CONTAINER / "Containerfile"], capture_output=True, check=False, text=True)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_image_has_the_version_of_the_package() -> None:
    """Its label has."""
    assert re.findall(r"^ARG VERSION=(.*)$", CONTAINERFILE, re.MULTILINE) == [VERSION]


def test_what_is_copied_reaches_the_build_and_nothing_else() -> None:
    """Both files that say what is left out begin with everything, except what is copied, and are the same."""
    podman, docker = ROOT / ".containerignore", CONTAINER / "Containerfile.dockerignore"
    assert podman.read_text() == docker.read_text()
    lines = [line for line in podman.read_text().splitlines() if not line.startswith("#")]
    assert (lines[0], lines[-1]) == ("*", "**/__pycache__")
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", CONTAINERFILE, re.MULTILINE)
    assert sorted(" ".join(copies).split()) == sorted(line.removeprefix("!") for line in lines[1:-1])


@pytest.fixture
def entry_point(tmp_path: Path) -> Path:
    """The entry point, which runs a program that prints its settings and arguments."""
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\nenv | grep ^RATELIMIT_ | sort\necho "$@"\n')
    program.chmod(0o755)
    text = ENTRY_POINT.read_text()
    assert text.count(PROGRAM) == 1
    path = tmp_path / "entry-point"
    path.write_text(text.replace(PROGRAM, str(program)))
    path.chmod(0o755)
    return path


def run(entry_point: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run it in an environment without other settings."""
    environment = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run([entry_point, *arguments], env=environment, capture_output=True, check=False, text=True)


def test_secrets_are_read_from_files(entry_point: Path, tmp_path: Path) -> None:
    """Each secret setting may be in a file, with a newline at the end or without; other settings stay as they are."""
    variables = {"RATELIMIT_WORKERS": "2"}
    for name in SECRETS:
        (tmp_path / name).write_text(f"of '{name}' $HOME\n")
        variables[f"{name}_FILE"] = str(tmp_path / name)
    done = run(entry_point, "serve", "--workers", "3", **variables)
    wanted = [*(f"{name}=of '{name}' $HOME" for name in SECRETS), "RATELIMIT_WORKERS=2"]
    assert done.stdout.splitlines() == [*sorted(wanted), "serve --workers 3"]


def test_a_file_that_is_no_secret_is_refused(entry_point: Path, tmp_path: Path) -> None:
    """A file that is missing or empty, or a secret that is set twice, is named, with what to do, and nothing starts."""
    empty = tmp_path / "empty"
    empty.touch()
    for variables, message in [
        ({"RATELIMIT_PEPPERS_FILE": "/none"}, f"RATELIMIT_PEPPERS_FILE: user {os.getuid()} cannot read /none"),
        ({"RATELIMIT_REDIS_URL_FILE": str(empty)}, f"RATELIMIT_REDIS_URL_FILE: {empty} is empty; write"),
        (
            {"RATELIMIT_REDIS_URL_FILE": str(empty), "RATELIMIT_REDIS_URL": "redis://a"},
            "RATELIMIT_REDIS_URL and RATELIMIT_REDIS_URL_FILE are both set; remove one",
        ),
    ]:
        done = run(entry_point, "serve", **variables)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
