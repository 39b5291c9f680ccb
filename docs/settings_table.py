"""Write the table of settings in the README from `Settings` itself. A test checks that it is fresh.

Usage: python docs/settings_table.py     (or `make docs`)
"""

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from ratelimit_service.settings import Settings

README = Path(__file__).parent.parent / "README.md"
_TABLE = re.compile(r"(?<=<!-- settings -->\n).*?(?=<!-- /settings -->)", re.DOTALL)


def settings_table() -> str:
    """The table in Markdown, one row for each setting in the order of the class."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        meaning = " ".join(filter(None, (field.description, _choices(field), _bounds(field))))
        rows.append(f"| `RATELIMIT_{name.upper()}` | {_default(field)} | {_escaped(meaning)} |")
    return "\n".join(rows) + "\n"


def with_fresh_table(readme: str) -> str:
    """The README's text with the current table."""
    return _TABLE.sub(lambda _: settings_table(), readme)


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value == "":
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _escaped(text: str) -> str:
    """Keep Markdown from taking a < outside code for a tag, and a | for the end of a cell."""
    parts = text.replace("|", "\\|").split("`")
    parts[::2] = [part.replace("<", "\\<") for part in parts[::2]]
    return "`".join(parts)


def _choices(field: FieldInfo) -> str:
    if get_origin(field.annotation) is not Literal:
        return ""
    return "One of " + ", ".join(f"`{choice}`" for choice in get_args(field.annotation)) + "."


def _bounds(field: FieldInfo) -> str:
    minimum = next((bound.ge for bound in field.metadata if isinstance(bound, Ge)), None)
    maximum = next((bound.le for bound in field.metadata if isinstance(bound, Le)), None)
    if minimum is None:
        return ""
    return f"{minimum} to {maximum}." if maximum is not None else f"At least {minimum}."


if __name__ == "__main__":
    README.write_text(with_fresh_table(README.read_text()))
