"""The README: it is short, every command in it works, and it leads to what it does not say itself."""

import re
import subprocess
import sys
from typing import Final

from fixtures.pages import ROOT, Checkout, blocks

PAGE: Final = "README.md"
README: Final = (ROOT / PAGE).read_text()
TWO_SCREENS: Final = 100
"""Lines."""


def test_every_command_works(checkout: Checkout) -> None:
    """All shell blocks, pasted into one shell in order, succeed, and their decisions are allowed."""
    done = checkout.run("sh", "-eux", stdin="".join(blocks(PAGE, "sh")))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert re.search(r'"reason": *"WITHIN_LIMIT"', done.stdout)
    assert "allowed: WITHIN_LIMIT" in done.stdout
    assert "would be allowed" in done.stdout


def test_the_python_works(checkout: Checkout) -> None:
    """The Python block, unchanged but for the address, prints a decision."""
    (block,) = blocks(PAGE, "python")
    done = checkout.run(sys.executable, "-c", block, PYTHONPATH=str(ROOT / "clients/python/src"))
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"allowed with \d+ left\n", done.stdout)


def test_make_run_starts_dev() -> None:
    """The README begins with its two commands, and `make run` is `ratelimit-service dev`."""
    assert [block.strip() for block in blocks(PAGE, "")] == ["make run", "make test"]
    command = ["make", "--dry-run", "--no-print-directory", "run"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    assert shown.stdout.splitlines()[-1] == "exec .venv/bin/ratelimit-service dev"


def test_make_run_installs_no_development_tools() -> None:
    """The first decision does not wait for the tools of tests and checks, which `make setup` installs after it."""
    installed = {}
    for target in ("run", "setup"):
        command = ["make", "--dry-run", "--no-print-directory", target, "VENV=made-up"]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
        installed[target] = re.findall(r" -e '\.\[(.*)\]'", shown)
    assert installed["run"] == ["console,embedded,envoy", "console,embedded"]
    assert installed["setup"] == [*installed["run"], "dev,otel"]


def test_it_fits_two_screens() -> None:
    """What is longer belongs into docs/, to which the README leads."""
    assert len(README.splitlines()) <= TWO_SCREENS
    for page in ("docs/tutorial.md", "docs/production.md", "docs/reference/settings.md", "docs/errors/README.md"):
        assert f"]({page})" in README
