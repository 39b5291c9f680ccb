"""Whether CHANGELOG.md has the form of Keep a Changelog, and what is released of it."""

import re
from datetime import date
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
SECTIONS: Final = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
_HEADING: Final = re.compile(r"^## (.*)$", re.MULTILINE)
_RELEASE: Final = re.compile(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d\d-\d\d)")


def problems(text: str, version: str) -> list[str]:
    """What is wrong with a changelog, of which VERSION is the version that is being made."""
    headings = _HEADING.findall(text)
    found = [] if headings[:1] == ["[Unreleased]"] else ["the first section is not [Unreleased]"]
    numbers, dates = [], []
    for heading in headings[1:]:
        match = _RELEASE.fullmatch(heading)
        if match is None:
            found.append(f"section {heading!r} is not of the form [1.2.3] - 2027-01-31")
            continue
        numbers.append(tuple(map(int, match.groups()[:3])))
        dates.append(match[4])
    if numbers != sorted(set(numbers), reverse=True) or dates != sorted(dates, reverse=True):
        found.append("the releases are not in order, the newest first, each once")
    found += [f"{day} is no date" for day in dates if not _is_date(day)]
    if numbers and ".".join(map(str, numbers[0])) != version:
        found.append(f"the newest release is {numbers[0]}, and the version {version}")
    for heading, body in zip(headings, _HEADING.split(text)[2::2], strict=True):
        sections = re.findall(r"^### (.*)$", body, re.MULTILINE)
        others = [name for name in sections if name not in SECTIONS]
        found += [f"{heading}: section {name!r} is none of {', '.join(SECTIONS)}" for name in others]
        if len(sections) != len(set(sections)):
            found.append(f"{heading}: a section stands there twice")
        if not re.search(r"^- ", body, re.MULTILINE) and heading != "[Unreleased]":
            found.append(f"{heading}: is empty")
    return found


def has_release(text: str, version: str) -> bool:
    """Whether VERSION is a release there."""
    return re.search(rf"^## \[{re.escape(version)}\] - ", text, re.MULTILINE) is not None


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
