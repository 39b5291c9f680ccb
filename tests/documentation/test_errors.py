"""docs/errors: each reason that the code gives has a page, and what a page says is what the code does."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from docs.generate.errors import Reason, pages, reasons
from docs.generate.links import ROOT
from fixtures.pages import blocks
from ratelimit_service import errors
from ratelimit_service._gen.ratelimit.v1.errors_pb2 import ErrorReason
from ratelimit_service.errors import Code, ServiceError

FOLDER: Final = ROOT / "docs" / "errors"
PACKAGE: Final = ROOT / "ratelimit_service"
REASONS: Final = {reason.name: reason for reason in reasons()}
SECTIONS: Final = ["What it means", "Who causes it", "What to do"]

FIXED: Final = {
    "InvalidArgument": "INVALID_FIELD",
    "of": "INVALID_FIELD",
    "FieldViolation": "INVALID_FIELD",
    "Aborted": "ETAG_MISMATCH",
    "DeadlineExceeded": "DEADLINE_TOO_SHORT",
    "Overloaded": "OVERLOADED",
    "LookupDeferred": "TOO_MANY_AT_ONCE",
    "Internal": "INTERNAL_FAULT",
    "StoreUnavailable": "BUCKET_STORE_UNAVAILABLE",
}
"""What makes errors of one reason, without naming it. StoreUnavailable: its text is the message of that error."""


class Raised(NamedTuple):
    """A place in the code that makes an error: its reason, and a pattern of its message, None if that is not there."""

    made_by: str
    """The class, or the function."""
    reason: str
    message: str | None
    place: str


@cache
def raised() -> list[Raised]:
    """All places whose reason is written there. To parse all of the code takes a second."""
    return [place for path in sources() for place in raised_in(path)]


def sources() -> list[Path]:
    """The files of the service, without what is generated."""
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "_gen" not in path.parts]


def raised_in(path: Path) -> Iterator[Raised]:
    """Those of a file."""
    texts = constants(tree := ast.parse(path.read_text()))
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
        given = [word.value for word in call.keywords if word.arg == "reason"]
        written = given[0].value if given and isinstance(given[0], ast.Constant) else FIXED.get(name, "")
        if isinstance(written, str) and re.fullmatch(r"[A-Z_]{4,}", written):
            message = call.args[-1 if name in {"of", "FieldViolation"} else 0] if call.args else None
            yield Raised(name, written, pattern(message, texts), f"{path.relative_to(ROOT)}:{call.lineno}")


def constants(tree: ast.Module) -> dict[str, list[ast.expr]]:
    """What is assigned to names anywhere in a module."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found.setdefault(node.target.id, []).append(node.value)
    return found


def pattern(message: ast.expr | None, texts: dict[str, list[ast.expr]]) -> str | None:
    """A regular expression of the texts that an expression may have; None if none of it is written there."""
    if isinstance(message, ast.Name):
        known = [pattern(value, {}) for value in texts.get(message.id, [])]
        return "|".join(filter(None, known)) or None
    if isinstance(message, ast.Constant):
        return re.escape(str(message.value))
    if not isinstance(message, ast.JoinedStr):
        return None
    parts = [re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+" for part in message.values]
    return "".join(parts) if any(len(part) > 8 for part in parts) else None


def test_every_reason_of_the_code_has_a_page() -> None:
    """Those of the API each have one of their own; those that only the console shows, a row on its page."""
    own = {place.reason for place in raised() if not place.place.startswith("ratelimit_service/console/")}
    assert own - REASONS.keys() == set()
    shown = {place.reason for place in raised()} - REASONS.keys()
    assert shown == set(re.findall(r"^\| `([A-Z_]+)` \|", (FOLDER / "console.md").read_text(), re.MULTILINE))


def test_every_reason_of_the_api_is_in_the_code() -> None:
    """The enum has no reason that nothing gives, and each has its page, whose name is the reason."""
    assert REASONS.keys() == {name for name, number in ErrorReason.items() if number}
    assert REASONS.keys() - {place.reason for place in raised()} == set()
    assert {path.stem for path in FOLDER.glob("[A-Z]*_*.md")} | {"DRAINING", "OVERLOADED"} == REASONS.keys()


@pytest.mark.parametrize("reason", REASONS.values(), ids=REASONS.keys())
def test_a_page_says_what_the_code_does(reason: Reason) -> None:
    """It has the status and metadata of the API's comment, its three sections, and a message that the code gives."""
    page = f"docs/errors/{reason.name}.md"
    text = (ROOT / page).read_text()
    head = text.partition("```")[0]
    assert text.startswith(f"# {reason.name}\n\nStatus `{reason.status}`. ")
    assert re.findall(r"`(\w+)`", head)[1:] == list(reason.metadata)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    (example,) = blocks(page, "text")
    status, _, message = example.strip().partition(": ")
    assert status == reason.status
    patterns = [place.message for place in raised() if place.reason == reason.name and place.message]
    if reason.name == "INVALID_FIELD":
        message = message.partition(": ")[2]  # behind the path of the field
    assert [each for each in patterns if re.fullmatch(each, message, re.DOTALL)], message


def test_the_statuses_are_those_of_the_classes() -> None:
    """What the comments of the API call the status of a reason is the one with which the code responds."""
    members = {name: each for name, each in vars(errors).items() if isinstance(each, type)}
    classes = {name: each for name, each in members.items() if issubclass(each, ServiceError)}
    checked = [place for place in raised() if place.made_by in classes and place.reason in REASONS]
    assert len(checked) > 20
    statuses = {name: Code[reason.status] for name, reason in REASONS.items()}
    assert [place for place in checked if statuses[place.reason] is not classes[place.made_by].code] == []


def test_the_index_has_a_sentence_or_two_for_each_reason() -> None:
    """Of a page whose first paragraph is one sentence, too: nothing of its other sections."""
    rows = re.findall(r"^\| \[[A-Z_]+\]\([A-Z_]+\.md\) \|.*$", pages()["errors/README.md"], re.MULTILINE)
    assert len(rows) == len(reasons())
    assert [row for row in rows if "##" in row or len(row) > 400] == []
