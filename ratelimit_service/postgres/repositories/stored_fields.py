"""Documents of events and alerts, read so that one that is none of ours hides neither its row nor others."""

import json
from collections.abc import Mapping
from typing import Any, Final

import structlog
from sqlalchemy import Column, Label, Text, case, cast, func

MAX_CHARACTERS: Final = 65_536
"""Characters of a document that is read, and bytes of it as it is stored: several times what any event has."""

_MAX_LEVELS: Final = 16
_MAX_NUMBER: Final = 2**63

_log = structlog.get_logger(__name__)


def document_text(column: Column[Any]) -> Label[str]:
    """The text of a document, cut off after MAX_CHARACTERS and one more. NULL if it is larger as it is stored."""
    text = func.left(cast(column, Text), MAX_CHARACTERS + 1)
    return case((func.pg_column_size(column) <= MAX_CHARACTERS, text)).label(column.name)


def fields_of(text: str | None, row: str) -> Mapping[str, Any]:
    """The fields of a document; of one that no event of ours can have, the field `unreadable`, which says why.

    ROW names what it is of, for the log.
    """
    try:
        return _parsed(text)
    except (ValueError, TypeError, RecursionError) as error:
        _log.warning("a document cannot be read", row=row, why=f"{type(error).__name__}: {error}")
        return {"unreadable": f"{error}"}


def _parsed(text: str | None) -> Mapping[str, Any]:
    if text is None or len(text) > MAX_CHARACTERS:
        raise ValueError(f"it has more than {MAX_CHARACTERS:,} characters")
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise TypeError(f"it must be an object, not {type(fields).__name__}")
    _check(fields, _MAX_LEVELS)
    return fields


def _check(value: object, levels: int) -> None:
    """Raise ValueError for a document that is nested too deeply, or has a number beyond 64 bits."""
    if not levels:
        raise ValueError(f"it has more than {_MAX_LEVELS} levels")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check(item, levels - 1)
    elif isinstance(value, int | float) and not -_MAX_NUMBER <= value < _MAX_NUMBER:
        raise ValueError("it has a number beyond 64 bits")
