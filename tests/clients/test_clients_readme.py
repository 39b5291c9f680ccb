"""The packages and the examples of clients/README.md are those of the clients."""

import json
import re
import tomllib

import pytest
import ratelimit_client

from clients.conftest import ROOT

_CLIENTS = ROOT / "clients"
_README = (_CLIENTS / "README.md").read_text()


def _first_block(text: str, language: str) -> list[str]:
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found is not None, f"no lines of {language}"
    return found[1].splitlines()


@pytest.mark.parametrize("language", ["python", "go", "ts", "java"])
def test_an_example_has_three_lines(language: str) -> None:
    """To protect an application takes three lines in each language."""
    assert len(_first_block(_README, language)) == 3


@pytest.mark.parametrize(
    ("folder", "language"), [("python", "python"), ("go", "go"), ("typescript", "ts"), ("java", "java")]
)
def test_an_example_is_the_first_of_its_package(folder: str, language: str) -> None:
    """It is the first in the package's own README, which the package's tests run as written."""
    own = (_CLIENTS / folder / "README.md").read_text()
    assert _first_block(_README, language) == _first_block(own, language)


def test_the_example_is_in_the_docstring() -> None:
    """The docstring of the Python package has the lines of the README, which another test runs as written."""
    assert "\n".join(_first_block(_README, "python")) in str(ratelimit_client.__doc__)


def test_the_table_has_the_names_and_versions_of_the_packages() -> None:
    """Package and version of each row are those of the package's manifest."""
    rows = {row[0].split("]")[0][1:]: row for row in (line.strip("| ").split(" | ") for line in _README.splitlines())}
    python = tomllib.loads((_CLIENTS / "python" / "pyproject.toml").read_text())["project"]
    assert rows["Python"][1:3] == [f"`{python['name']}`", python["version"]]
    typescript = json.loads((_CLIENTS / "typescript" / "package.json").read_text())
    assert rows["TypeScript"][1:3] == [f"`{typescript['name']}`", typescript["version"]]
    module = re.search(r"^module (\S+)$", (_CLIENTS / "go" / "go.mod").read_text(), re.MULTILINE)
    assert module is not None
    assert rows["Go"][1] == f"`{module[1]}`"
    pom = (_CLIENTS / "java" / "pom.xml").read_text()
    java = [
        re.findall(rf"^  <{name}>(.*)</{name}>$", pom, re.MULTILINE)[0] for name in ("groupId", "artifactId", "version")
    ]
    assert rows["Java"][1:3] == [f"`{java[0]}:{java[1]}`", java[2]]


def test_the_java_readme_has_the_version_of_its_package() -> None:
    """The dependency that its readers copy has the version of pom.xml, which is that of the project."""
    readme = (_CLIENTS / "java" / "README.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\n  <version>{project}</version>\n" in (_CLIENTS / "java" / "pom.xml").read_text()
    assert re.findall(r"<version>(.*)</version>", readme) == [project]
