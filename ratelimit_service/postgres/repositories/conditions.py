"""Conditions that several repositories filter by."""

from collections.abc import Iterator

from sqlalchemy import Column, ColumnElement, func

_MAX_CHARACTER = "\U0010ffff"
_MAX_REST = 32
"""Characters of this size, 4 bytes, that any of our texts may have after a prefix; no text of ours sorts after them."""


def begins_with(column: Column[str], prefix: str) -> Iterator[ColumnElement[bool]]:
    """That a text begins with PREFIX, as a range of an index with `text_pattern_ops`.

    A range, not LIKE: of that, Postgres sees no range in a statement that it has prepared for any value.
    """
    yield column.op("~>=~", is_comparison=True)(prefix)
    yield column.op("~<=~", is_comparison=True)(prefix + _MAX_CHARACTER * _MAX_REST)
    yield func.starts_with(column, prefix)
