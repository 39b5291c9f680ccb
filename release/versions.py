"""The version of `pyproject.toml`, and every other place that has to name it: `make version`.

`pyproject.toml` is the one place where it is changed. Package managers and examples that people paste want it in files
of their own: this writes it into them.
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PLACES: Final[dict[str, tuple[str, ...]]] = {
    "crossing/pyproject.toml": (r'^version = "()"$',),
    "clients/python/pyproject.toml": (r'^version = "()"$',),
    "clients/typescript/package.json": (r'^  "version": "()",$',),
    "clients/typescript/package-lock.json": (
        r'\A\{\n.*\n  "version": "()",$',
        r'^    "": \{\n.*\n      "version": "()",$',
    ),
    "clients/java/pom.xml": (r"^  <version>()</version>$",),
    "clients/java/README.md": (r"^  <version>()</version>$",),
    "clients/java/example/pom.xml": (r"-client</artifactId>\n      <version>()</version>$",),
    "clients/README.md": (r"^\| \[\w+\]\(\w+/README\.md\)[^|]*\| `[^`]+` \| () \|",),
    "docs/install.md": (r"\bratelimit_service-()-py3",),
    "deploy/compose/compose.yaml": (r"^  image: ratelimit-service:()$",),
    "deploy/container/Containerfile": (r"^ARG VERSION=()$",),
    "deploy/container/README.md": (r"\bratelimit-service:()(?= |$)",),
    "deploy/helm/ratelimit-service/Chart.yaml": (r"^version: ()$", r"^appVersion: ()$"),
}
"""Patterns of what surrounds the version, which stands in the parentheses, by file."""

_VERSION: Final = r"([0-9]+\.[0-9]+\.[0-9]+(?:[a-z][0-9a-z.]*)?)"


class NotFound(Exception):
    """A place that should name the version does not."""


def version(root: Path = ROOT) -> str:
    """The version of pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def named(root: Path = ROOT) -> dict[str, set[str]]:
    """The versions that each file names. Raises NotFound for one that names none."""
    return {file: {match[1] for match in _matches(root, file)} for file in PLACES}


def write(root: Path = ROOT) -> list[str]:
    """Write the version into every place. Returns the files that changed. Raises NotFound as above."""
    wanted, changed = version(root), []
    for file in PLACES:
        text = (root / file).read_text(encoding="utf-8")
        fresh = text
        for match in sorted(_matches(root, file), key=lambda found: found.start(1), reverse=True):
            fresh = fresh[: match.start(1)] + wanted + fresh[match.end(1) :]
        if fresh != text:
            (root / file).write_text(fresh, encoding="utf-8")
            changed.append(file)
    return changed


def _matches(root: Path, file: str) -> list[re.Match[str]]:
    text = (root / file).read_text(encoding="utf-8")
    found = []
    for pattern in PLACES[file]:
        matches = list(re.finditer(pattern.replace("()", _VERSION), text, re.MULTILINE))
        if not matches:
            raise NotFound(f"{file} names no version at {pattern!r}; correct PLACES in release/versions.py")
        found += matches
    return found


if __name__ == "__main__":
    print(f"version {version()}:", ", ".join(write()) or "every place names it already", file=sys.stderr)
