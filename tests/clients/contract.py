"""The cases of clients/conformance, as pytest takes them."""

import json
from pathlib import Path
from typing import Any

import pytest

Case = dict[str, Any]
Step = dict[str, Any]

FOLDER = Path(__file__).resolve().parents[2] / "clients" / "conformance"
SLOW_MACHINE_MS = 10_000
"""The deadline of a case that names none."""
NOT_TEXT = "\ud800"
"""A text without an encoding in UTF-8: half of a surrogate pair."""

TOO_LONG = "x" * 65537
"""A text that no message holds."""


def read(name: str) -> list[Case]:
    """The cases of one file."""
    cases: list[Case] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return cases


def arguments(call: dict[str, Any]) -> dict[str, Any]:
    """What CALL asks about, without what it says of its caller's patience."""
    asked = {name: call[name] for name in ("api_key", "key_id", "resource", "cost", "request_id") if name in call}
    odd = {"not_text": NOT_TEXT, "too_long": TOO_LONG}
    return asked | {call[name]: text for name, text in odd.items() if name in call}


def cases(*names: str) -> pytest.MarkDecorator:
    """Run a test once for each case of the files NAMES."""
    found = [(name, case) for name in names for case in read(name)]
    return pytest.mark.parametrize("case", [pytest.param(case, id=f"{name}: {case['name']}") for name, case in found])
