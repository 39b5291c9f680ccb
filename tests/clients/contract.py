"""The cases of clients/conformance, as pytest takes them."""

import json
from pathlib import Path
from typing import Any

import pytest
from ratelimit_client import OnError

Case = dict[str, Any]
Step = dict[str, Any]

FOLDER = Path(__file__).resolve().parents[2] / "clients" / "conformance"
SLOW_MACHINE_MS = 10_000
"""The deadline of a case that has none."""
INVALID_UTF8 = "\ud800"
"""A text without an encoding in UTF-8: half of a surrogate pair."""
OVERSIZED = "x" * 65537
"""A text that fits no message."""


def read(name: str) -> list[Case]:
    """The cases of one file."""
    cases: list[Case] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return cases


def targets() -> list[Case]:
    """The cases of `targets.json`, which have no steps."""
    return read("targets")


def tokens() -> list[Case]:
    """The cases of `tokens.json`, which have no steps."""
    return read("tokens")


def arguments(call: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `check` or `peek` for CALL, without when its caller abandons it."""
    given = {name: call[name] for name in ("api_key", "key_id", "resource", "cost", "request_id") if name in call}
    generated = {"invalid_utf8": INVALID_UTF8, "oversized": OVERSIZED}
    return given | {call[name]: text for name, text in generated.items() if name in call}


def reserve_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `reserve` for CALL, which may be a scope."""
    given = arguments(call) | {"estimate": call["estimate"], "hold": call["hold_ms"] / 1000}
    if "on_error" in call:
        given["on_error"] = OnError[call["on_error"]]
    if "extend" in call:
        given["extend"] = call["extend"]
    return given


def cases(*names: str) -> pytest.MarkDecorator:
    """Run a test once for each case of the files NAMES."""
    found = [(name, case) for name in names for case in read(name)]
    return pytest.mark.parametrize("case", [pytest.param(case, id=f"{name}: {case['name']}") for name, case in found])
