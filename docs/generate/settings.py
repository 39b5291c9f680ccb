"""The reference of the settings, from `Settings` itself."""

from typing import Any, Final, Literal, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from docs.generate.markdown import cell
from ratelimit_service.settings import Settings

_PAGE: Final = """# Settings

Each is read from the environment, once, when a process starts. `dev` has the same defaults, and starts its own stores.
What is set and unknown is reported at the start, and ignored; what is out of bounds ends it with a message.
`ratelimit-service doctor` checks all of them.

{table}"""


def pages() -> dict[str, str]:
    """The page."""
    return {"reference/settings.md": _PAGE.format(table=settings_table())}


def settings_table() -> str:
    """The table in Markdown, one row for each setting in the order of the class."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        meaning = " ".join(filter(None, (field.description, _choices(field), _bounds(field))))
        rows.append(f"| `RATELIMIT_{name.upper()}` | {_default(field)} | {cell(meaning)} |")
    return "\n".join(rows) + "\n"


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value == "":
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


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
