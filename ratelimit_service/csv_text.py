"""CSV files, of which no cell is a formula to a spreadsheet: names in them are chosen by callers."""

import csv
from collections.abc import Iterable, Sequence
from typing import Final, TextIO

_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a cell begins with that a spreadsheet evaluates, some of them the wide signs of East Asian texts too."""


def write_csv(file: TextIO, rows: Iterable[Sequence[object]], *, line_end: str = "\r\n") -> None:
    """Write ROWS. A text that a spreadsheet would take for a formula gets an apostrophe before it; numbers do not."""
    writer = csv.writer(file, lineterminator=line_end)
    writer.writerows([_harmless(cell) for cell in row] for row in rows)


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULAS) else cell
