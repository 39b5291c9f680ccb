"""Links between pages lead somewhere, and every page is in the navigation of the site."""

import fnmatch
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from docs.generate import links
from docs.generate.links import ROOT, broken, pages, targets
from docs.generate.tree import copy


class _Loader(yaml.SafeLoader):
    """Tags of the site generator are no tags of YAML."""


CONFIG: Final[dict[str, Any]] = yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)


def entries(nav: Any) -> Iterator[str]:  # noqa: ANN401  what YAML holds
    """The pages of a part of the navigation."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for part in nav.values():
            yield from entries(part)
    else:
        for part in nav:
            yield from entries(part)


def test_no_link_is_dead() -> None:
    """Every link and image leads to a file that is there, and to a heading that the repository and the site have."""
    assert broken() == []
    assert sum(len(targets(page)) for page in pages()) > 150


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[a](missing.md)", "is no file"),
        ("[a](other.md#none)", "is no heading"),
        ("[a](other.md#a--b)", "is no heading"),
        ("[a](folder/)", "is no file"),
        ("![a](missing.png)", "is no file"),
        ("[a](#there)", "is no heading"),
        ("[a](other.md#here)", ""),
        ("[a](other.md)", ""),
        ("[a](https://example.com/none)", ""),
        ("`[a](missing.md)`", ""),
        ("```\n[a](missing.md)\n```", ""),
    ],
)
def test_the_check_itself(text: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds what leads nowhere, and nothing in code."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "page.md").write_text(f"# Page\n\n{text}\n")
    (tmp_path / "other.md").write_text("# Here\n\n## A / B\n")
    monkeypatch.setattr(links, "ROOT", tmp_path)
    monkeypatch.setattr(links, "files", lambda: ["other.md", "page.md"])
    found = broken()
    assert [problem in each for each in found] == ([True] if problem else [])


def test_every_page_is_in_the_navigation() -> None:
    """Each once, but for what is reached from its index; and the navigation has nothing that is not there."""
    listed = list(entries(CONFIG["nav"]))
    assert len(listed) == len(set(listed))
    patterns = [pattern.removeprefix("/") for pattern in CONFIG["not_in_nav"].split()]
    hidden = {page for page in pages() if any(fnmatch.fnmatchcase(page, pattern) for pattern in patterns)}
    assert set(pages()) - hidden == set(listed)
    for folder in ("docs/adr", "docs/errors"):
        linked = targets(f"{folder}/README.md")
        assert {page for page in hidden if page.startswith(folder)} <= linked


def test_the_tree_has_the_pages_and_what_they_link_to(tmp_path: Path) -> None:
    """So the site generator finds everything where links expect it, and nothing else is published."""
    copy(tmp_path / "pages")
    found = [path for path in (tmp_path / "pages").rglob("*") if path.is_file()]
    copied = {path.relative_to(tmp_path / "pages").as_posix() for path in found}
    assert copied >= {*pages(), "docs/screenshots/overview-dark.png", "deploy/prometheus/rules.yaml"}
    assert not [name for name in copied if re.match(r"tests/|ratelimit_service/|\.", name)]
