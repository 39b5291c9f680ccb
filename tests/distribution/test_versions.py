"""The version is in one place, and the changelog has its form."""

import shutil
from pathlib import Path

import pytest

from release.changelog import has_release, problems
from release.versions import PLACES, ROOT, NotFound, named, version, write

CHANGELOG = (ROOT / "CHANGELOG.md").read_text()


def copy(root: Path, number: str) -> None:
    """A copy of all files that name the version, with another one in pyproject.toml."""
    for file in ("pyproject.toml", *PLACES):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, root / file)
    project = (root / "pyproject.toml").read_text()
    (root / "pyproject.toml").write_text(project.replace(f'\nversion = "{version()}"\n', f'\nversion = "{number}"\n'))


def test_every_place_names_the_version_of_the_project() -> None:
    """After a change of pyproject.toml, `make version` writes it everywhere."""
    assert {file: names for file, names in named().items() if names != {version()}} == {}


def test_the_version_is_written_everywhere(tmp_path: Path) -> None:
    """All places at once, nothing else in these files, and once only."""
    copy(tmp_path, "12.34.56")
    assert write(tmp_path) == list(PLACES)
    assert set().union(*named(tmp_path).values()) == {"12.34.56"}
    for file in PLACES:
        assert (tmp_path / file).read_text().replace("12.34.56", version()) == (ROOT / file).read_text()
    assert write(tmp_path) == []


def test_a_place_that_names_none_is_an_error(tmp_path: Path) -> None:
    """A file that was rewritten does not silently keep the old version."""
    copy(tmp_path, "12.34.56")
    (tmp_path / "deploy/compose/compose.yaml").write_text("services: {}\n")
    with pytest.raises(NotFound, match=r"compose\.yaml names no version"):
        write(tmp_path)


def test_the_changelog_has_its_form() -> None:
    """`make dist` refuses any other."""
    assert problems(CHANGELOG, version()) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("## [Unreleased]\n\n## [1.2.3] - 2027-01-31\n\n### Added\n\n- A.\n", ""),
        ("## [1.2.3] - 2027-01-31\n\n- A.\n", "not [Unreleased]"),
        ("## [Unreleased]\n\n## 1.2.3\n\n- A.\n", "not of the form"),
        ("## [Unreleased]\n\n## [1.2.3] - 2027-02-31\n\n- A.\n", "is no date"),
        ("## [Unreleased]\n\n## [1.2.4] - 2027-01-31\n\n- A.\n", "and the version 1.2.3"),
        ("## [Unreleased]\n\n## [1.2.3] - 2027-01-31\n\n### New\n\n- A.\n", "section 'New' is none of"),
        ("## [Unreleased]\n\n### Added\n\n### Added\n", "stands there twice"),
        ("## [Unreleased]\n\n## [1.2.3] - 2027-01-31\n", "is empty"),
        ("## [Unreleased]\n\n## [1.2.3] - 2027-01-31\n\n- A.\n\n## [1.3.0] - 2026-01-31\n\n- A.\n", "not in order"),
    ],
)
def test_what_is_wrong_with_a_changelog(text: str, problem: str) -> None:
    """Sections, their order, dates and the version."""
    found = problems(text, "1.2.3")
    assert [each for each in found if problem in each] == found
    assert bool(found) == bool(problem)


def test_whether_a_version_is_released() -> None:
    """What has no section is no release yet."""
    assert has_release("## [1.2.3] - 2027-01-31\n", "1.2.3")
    assert not has_release("## [1.2.30] - 2027-01-31\n", "1.2.3")
