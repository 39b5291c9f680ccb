"""Conditions and columns that several repositories have."""

from collections.abc import Iterator

from sqlalchemy import Column, ColumnElement, Label, case, func, literal, null

from ratelimit_service.postgres.tables import Microseconds

_MAX_CHARACTER = "\U0010ffff"
_MAX_REST = 32
"""Characters of this size, 4 bytes, that any of our texts may have after a prefix; no text of ours sorts after them."""

_FIRST = literal(-62_135_596_800_000_000, Microseconds)  # 0001-01-01T00:00:00Z
_LAST = literal(253_402_300_799_999_999, Microseconds)  # 9999-12-31T23:59:59.999999Z


def readable_time(column: Column[int]) -> Label[int]:
    """A time as one between the years 1 and 9999, which Python can represent. The driver fails on any other."""
    within = func.least(func.greatest(column, _FIRST, type_=Microseconds), _LAST, type_=Microseconds)
    return case((column.is_(None), null()), else_=within).label(column.name)


def begins_with(column: Column[str], prefix: str) -> Iterator[ColumnElement[bool]]:
    """That a text begins with PREFIX, as a range of an index with `text_pattern_ops`.

    A range, not LIKE: of that, Postgres sees no range in a statement that it has prepared for any value.
    """
    yield column.op("~>=~", is_comparison=True)(prefix)
    yield column.op("~<=~", is_comparison=True)(prefix + _MAX_CHARACTER * _MAX_REST)
    yield func.starts_with(column, prefix)
