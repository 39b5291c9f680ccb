"""What `make docs` checks of the site that it has built."""

import json
from pathlib import Path

import pytest

from docs.generate.built import problems


def site(folder: Path, page: str, known: str = "page.html#part") -> Path:
    """A built site of one page."""
    (folder / "search").mkdir()
    (folder / "search" / "search_index.json").write_text(json.dumps({"docs": [{"location": known}]}))
    (folder / "page.html").write_text(page)
    return folder


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://cdn.example.com/a.js"></script>',
        "<script async src=//cdn.example.com/a.js></script>",
        '<link rel="stylesheet" href="https://fonts.example.com/css">',
        '<link href="https://fonts.example.com" rel="preconnect">',
        '<img alt="" src="http://example.com/a.png">',
        "<style>a { background: url(https://example.com/a.png) }</style>",
    ],
)
def test_what_is_loaded_from_elsewhere_is_found(page: str, tmp_path: Path) -> None:
    """Scripts, styles, fonts and images of other hosts."""
    (found,) = problems(site(tmp_path, page))
    assert "from elsewhere" in found


def test_links_load_nothing(tmp_path: Path) -> None:
    """A link to another site is none of that, nor is the page's own address."""
    page = '<link rel="canonical" href="https://example.com/"><a href="https://example.com">a</a><img src="a.png">'
    assert problems(site(tmp_path, page)) == []


def test_a_page_that_the_search_does_not_know_is_found(tmp_path: Path) -> None:
    """Each page has to be in the search index."""
    assert problems(site(tmp_path, "", known="other.html")) == ["page.html: is not in the search index"]
