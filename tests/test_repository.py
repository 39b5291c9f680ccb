"""What must hold of the repository as a whole."""

import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ratelimit_service.decision.api_key import ApiKey

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = [
    "setup",
    "run",
    "test",
    "check",
    "proto",
    "attacks",
    "test-faults",
    "bench",
    "clients",
    "test-clients",
    "bench-clients",
    "docs",
    "dist",
    "test-dist",
    "version",
]

# In pieces, so that this file does not contain them.
HOSTS = [
    "pypi" + ".org",
    "python" + "hosted.org",
    "registry.npm" + "js.org",
    "proxy.go" + "lang.org",
    "crates" + ".io",
]
LOCAL_PATHS = ["/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/"]


def tracked_files() -> list[Path]:
    """Every file that git tracks and that exists."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def locked() -> dict[str, str]:
    """The version of each package in requirements.lock, by its name in lower case."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return dict(line.lower().replace("_", "-").split("==") for line in lines if not line.startswith("#"))


def test_make_help_lists_the_targets() -> None:
    """`make help`, and `make` alone, list every target that a developer needs, with a description."""
    for command in (["make", "help"], ["make"]):
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
        assert [target for target in TARGETS if not re.search(rf"^  make {target} +\S", listed, re.MULTILINE)] == []


@pytest.mark.parametrize("needles", [HOSTS, LOCAL_PATHS], ids=["hosts", "paths"])
def test_nothing_names_a_registry_or_a_machine(needles: list[str]) -> None:
    """No file names the host of a package registry or a folder of one machine: those depend on who builds."""
    found = {
        (str(path.relative_to(ROOT)), needle)
        for path in tracked_files()
        for needle in needles
        if needle.encode() in path.read_bytes()
    }
    assert found == set()


def test_ci_runs_what_a_developer_runs() -> None:
    """`.ci/run` is executable, and runs `make check` and then `make test`."""
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert re.findall(r"^(?:if ! )?make (\w+)", script.read_text(), re.MULTILINE) == ["check", "test"]


@pytest.mark.parametrize(
    ("fails", "failed", "passes"),
    [
        ("", 0, True),
        ("check", 0, False),
        ("test", 1, True),
        ("test", 11, False),
        ("test again", 1, False),
        ("client", 0, True),
        ("client again", 0, False),
    ],
)
def test_ci_fails_when_a_test_fails_twice(tmp_path: Path, fails: str, failed: int, passes: bool) -> None:
    """`.ci/run` passes if all does, or what failed passes alone; not if it fails again, or too much failed."""
    for name, text in {
        "bin/make": (
            '#!/bin/sh\necho "$@" >> ran\n[ "$1" != check ] || [ "$FAILS" != check ] || exit 2\n'
            '[ "$1" != test ] || case $FAILS in "test again") exit 2;; test) [ -n "${2:-}" ] || exit 2;; esac\n'
            '[ "$1" != test-clients ] || case $FAILS in\n'
            '"client again") exit 2;; client) [ "$(grep -c "$*" ran)" -gt 1 ] || exit 2;; esac\n'
        ),
        ".venv/bin/python": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n',
        ".ci/run": (ROOT / ".ci" / "run").read_text(),
        ".ci/failed_tests.py": (ROOT / ".ci" / "failed_tests.py").read_text(),
        ".pytest_cache/v/cache/lastfailed": json.dumps({f"tests/test_a.py::test_{n}": True for n in range(failed)}),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"FAILS": fails, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    run = subprocess.run([tmp_path / ".ci" / "run"], env=environment, check=False, capture_output=True)
    assert (run.returncode == 0) == passes, run.stderr
    assert ("test-clients" in (tmp_path / "ran").read_text()) == (passes or fails == "client again")


@pytest.mark.parametrize(("failures", "again"), [(0, False), (1, True), (10, True), (11, False)])
def test_few_failed_tests_are_run_again(tmp_path: Path, failures: int, again: bool) -> None:
    """What fails once and then passes alone is named and passes; more than ten failures are no accident."""
    (tmp_path / "test_once.py").write_text(
        "import pathlib, pytest\n\n"
        "@pytest.mark.parametrize('number', range(11))\n"
        "def test_once(number):\n"
        "    seen = pathlib.Path(__file__).parent / str(number)\n"
        f"    first, _ = not seen.exists(), seen.touch()\n    assert number >= {failures} or not first\n"
    )
    pytest_here = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path)]
    assert subprocess.run(pytest_here, cwd=tmp_path, check=False, capture_output=True).returncode == bool(failures)
    script = [sys.executable, str(ROOT / ".ci" / "failed_tests.py")]
    named = subprocess.run(script, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert (named.returncode == 0, named.stdout.count("test_once.py::")) == (again, failures if again else 0)
    if again:
        second = [*pytest_here, "--last-failed", "--last-failed-no-failures", "none"]
        done = subprocess.run(second, cwd=tmp_path, check=False, capture_output=True, text=True)
        assert (done.returncode, f"{failures} passed" in done.stdout) == (0, True)


def test_every_dependency_is_locked() -> None:
    """Each package that we name is locked at one exact version within our own bounds."""
    versions = locked()
    for text in [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]:
        requirement = Requirement(text)
        name = requirement.name.lower().replace("_", "-")
        assert versions[name] in requirement.specifier, text
    assert all(re.fullmatch(r"[0-9][0-9a-z.+!]*", each) for each in versions.values())


def test_the_licence_is_the_same_everywhere() -> None:
    """The licence file, the project's metadata and the README name Apache 2.0."""
    assert (ROOT / "LICENSE").read_text().split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert PROJECT["license"] == "Apache-2.0"
    assert "[Apache 2.0](LICENSE)" in (ROOT / "README.md").read_text()


def test_there_is_one_version() -> None:
    """The installed package, the clients and the changelog have the version of pyproject.toml."""
    ours = PROJECT["version"]
    assert version("ratelimit-service") == ours
    python, typescript = ROOT / "clients/python/pyproject.toml", ROOT / "clients/typescript/package.json"
    if python.exists():
        assert tomllib.loads(python.read_text())["project"]["version"] == ours
    if typescript.exists():
        assert json.loads(typescript.read_text())["version"] == ours
    headings = re.findall(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1:2] in ([], [ours])


def test_every_decision_is_listed() -> None:
    """Each ADR has its own number and a row in the index with its title, and the index has no other rows."""
    records = sorted(path for path in (ROOT / "docs/adr").glob("*.md") if path.name != "README.md")
    rows = re.findall(
        r"^\| \[(\d{4})\]\(([^)]+)\) \| (.+) \|$", (ROOT / "docs/adr/README.md").read_text(), re.MULTILINE
    )
    titles = [re.match(r"# (\d{4}): (.+)", path.read_text()) for path in records]
    assert rows == [
        (title[1], path.name, title[2]) for title, path in zip(titles, records, strict=True) if title is not None
    ]
    assert len({number for number, _, _ in rows}) == len(records)


def test_the_architecture_names_files_that_exist() -> None:
    """Each path in docs/architecture.md exists, and the document stays short enough to be read in one sitting."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert len(text.splitlines()) <= 3 * 50
    names = re.findall(r"`([\w/.]+(?:\.py|\.lua|/))`", text)
    assert len(names) > 40
    assert [name for name in names if not any((ROOT / top / name).exists() for top in ("", "ratelimit_service"))] == []


AWS_KEY = "AKIA" + "IOSFODNN7" + "EXAMPLQ"
PRIVATE_KEY = "-----BEGIN RSA " + "PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"aws_access_key_id = {AWS_KEY}", "AWS Access Key"),
        (PRIVATE_KEY, "Private Key"),
        (f"key: {ApiKey.generate('live')}", "API key of this service"),
    ],
    ids=["aws", "private key", "ours"],
)
def test_a_planted_secret_fails_the_check(text: str, kind: str, tmp_path: Path) -> None:
    """`make check` fails on a secret in the tree, and names the file and line."""
    planted = tmp_path / "settings.txt"
    planted.write_text(f"first line\n{text}\n")
    done = find_secrets(str(planted))
    assert done.returncode == 1
    assert f"{planted}:2: {kind}" in done.stderr


def test_a_file_without_secrets_passes_the_check(tmp_path: Path) -> None:
    """What is no secret is none."""
    clean = tmp_path / "settings.txt"
    clean.write_text("listen = 127.0.0.1:50051\n")
    assert find_secrets(str(clean)).returncode == 0


def find_secrets(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What `make check` runs."""
    script = ROOT / ".ci" / "find_secrets.py"
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("output", "code", "line"),
    [
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}', 0, "none of 1 dependencies has a known"),
        (
            '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}]}',
            1,
            "a 1: CVE-1, fixed in 2",
        ),
        ('{"dependencies": [{"name": "a", "skip_reason": "not found"}]}', 0, "1 of 1 dependencies were NOT checked"),
        ("", 0, "dependencies were NOT checked"),
    ],
    ids=["clean", "vulnerable", "skipped", "unreachable"],
)
def test_what_the_audit_of_dependencies_reports(output: str, code: int, line: str) -> None:
    """A known vulnerability fails the check; a database that cannot be reached is reported, and is no clean result."""
    found, lines = runpy.run_path(str(ROOT / ".ci" / "audit_dependencies.py"))["report"](output, "no network")
    assert found == code
    assert line in lines[0]
