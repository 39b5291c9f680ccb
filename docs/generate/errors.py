"""The table of errors in `docs/errors/README.md`, from the comments of `ratelimit.v1.ErrorReason`.

The pages themselves are written by hand; tests compare them with the code that raises the errors.
"""

import re
from pathlib import Path
from typing import Final, NamedTuple

from docs.generate.markdown import cell

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
_INDEX: Final = "errors/README.md"
_PROTO: Final = _ROOT / "protos" / "ratelimit" / "v1" / "errors.proto"
_REASON: Final = re.compile(r"((?:^  //.*\n)+)^  ([A-Z_]+) = (\d+);$", re.MULTILINE)
_TABLE: Final = re.compile(r"(?<=<!-- generated -->\n).*?(?=<!-- /generated -->)", re.DOTALL)


class Reason(NamedTuple):
    """A reason: the name of its gRPC status, what it means in a sentence or two, and the keys of its metadata."""

    name: str
    status: str
    meaning: str
    metadata: tuple[str, ...]


def reasons() -> list[Reason]:
    """All reasons that are sent, in the order of their numbers."""
    found = []
    for comment, name, number in _REASON.findall(_PROTO.read_text(encoding="utf-8")):
        text = " ".join(line.strip().removeprefix("//").strip() for line in comment.splitlines())
        if number == "0":
            continue
        meaning, _, metadata = text.partition("Metadata: ")
        status, _, meaning = meaning.partition(". ")
        found.append(Reason(name, status.strip("."), meaning.strip(), tuple(re.findall(r"`(\w+)`", metadata))))
    return found


def _first_sentence(reason: str) -> str:
    """What the page of a reason begins with, for one of which the API says no more than its status."""
    text = (_ROOT / "docs" / "errors" / f"{reason}.md").read_text(encoding="utf-8")
    paragraph = text.partition("## What it means\n\n")[2].partition("\n\n")[0].replace("\n", " ")
    return paragraph.partition(". ")[0].removesuffix(".") + "."


def pages() -> dict[str, str]:
    """The index with a fresh table."""
    rows = [
        f"| [{each.name}]({each.name}.md) | `{each.status}` | {cell(each.meaning or _first_sentence(each.name))} |"
        for each in reasons()
    ]
    table = "\n".join(["| reason | status | what it means |", "|---|---|---|", *rows]) + "\n"
    text = (_ROOT / "docs" / _INDEX).read_text(encoding="utf-8")
    return {_INDEX: _TABLE.sub(lambda _: table, text)}
