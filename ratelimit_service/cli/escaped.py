"""Texts that somebody else chose, as a terminal may have them."""

from typing import Final

_KEPT: Final = "\n\u00a0\u200c\u200d\u3000"
"""What is not printable by itself, and yet belongs to texts: line ends, wide blanks, and what joins letters."""


def escaped(text: str) -> str:
    """TEXT with what would reorder, hide or erase other text by its escape.

    Callers choose resources, files hold anything, and versions before this one stored names that are refused today.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in _KEPT else ascii(one)[1:-1] for one in text)
