"""Checks the links between the pages of the site, images too: `python -m docs.generate.links`, a part of `make docs`.

A link leads to a file that is there, and what follows its # is a heading, whether the page is read in the repository or
on the site, which make the names of headings in two ways.
"""

import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
_ELSEWHERE: Final = ("tests/", "ratelimit_service/", ".")
"""Files below these are no part of the site."""

_FENCE: Final = re.compile(r"^ *(`{3,})[^\n]*\n.*?^ *\1 *$", re.MULTILINE | re.DOTALL)
_SPAN: Final = re.compile(r"`[^`\n]+`")
_LINK: Final = re.compile(r"(?<!\\)\]\(([^()\s]+)\)")
_HEADING: Final = re.compile(r"^#{1,6} (.+?)\s*#*$", re.MULTILINE)


def files() -> list[str]:
    """All files of the repository that are not ignored, relative to its root, new ones included."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return sorted({name for name in listed.split("\0") if name and (ROOT / name).is_file()})


def pages() -> list[str]:
    """Those that are pages of the site."""
    return [name for name in files() if name.endswith(".md") and not name.startswith(_ELSEWHERE)]


def links(page: str) -> Iterator[tuple[int, str]]:
    """The links on a page to files of the repository, with their lines. What is in code is none."""
    text = _blanked(_FENCE, (ROOT / page).read_text(encoding="utf-8"))
    text = _SPAN.sub(lambda span: "_" * len(span[0]), text)
    for number, line in enumerate(text.splitlines(), start=1):
        yield from ((number, target) for target in _LINK.findall(line) if not re.match(r"[a-z]+:", target))


def targets(page: str) -> set[str]:
    """The files that a page links to, relative to the root."""
    return {_resolved(page, target) for _, target in links(page)}


def broken() -> list[str]:
    """What is wrong with each link that leads nowhere, with its place."""
    present, known = set(files()), set(pages())
    found = []
    for page in known:
        for line, target in links(page):
            path, _, anchor = target.partition("#")
            file = _resolved(page, target)
            problem = ""
            if path and file not in present:
                problem = "is no file of the repository"
            elif file.endswith(".md") and file not in known:
                problem = "is no page of the site"
            elif anchor and anchor not in anchors(file):
                problem = "is no heading there, or one whose name differs between the repository and the site"
            if problem:
                found.append(f"{page}:{line}: {target} {problem}")
    return sorted(found)


def anchors(page: str) -> set[str]:
    """The names of the headings of a page that are the same in the repository and on the site."""
    headings = _HEADING.findall(_blanked(_FENCE, (ROOT / page).read_text(encoding="utf-8")))
    texts = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "") for heading in headings]
    names = [_name_in_repository(text) for text in texts]
    return {
        name for name, text in zip(names, texts, strict=True) if name == _name_on_site(text) and names.count(name) == 1
    }


def _blanked(pattern: re.Pattern[str], text: str) -> str:
    """TEXT with as many empty lines in place of what the pattern matches."""
    return pattern.sub(lambda match: "\n" * match[0].count("\n"), text)


def _resolved(page: str, target: str) -> str:
    path = target.partition("#")[0]
    if not path:
        return page
    parts: list[str] = []
    for part in (PurePosixPath(page).parent / path).parts:
        if part == ".." and parts:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts) + "/" * path.endswith("/")


def _name_in_repository(heading: str) -> str:
    """As forges name it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _name_on_site(heading: str) -> str:
    """As Python-Markdown names it."""
    ascii_text = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_text).strip().lower())


if __name__ == "__main__":
    problems = broken()
    print("\n".join(problems) or f"all links of {len(pages())} pages lead somewhere", file=sys.stderr)
    sys.exit(bool(problems))
