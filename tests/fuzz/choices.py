"""Structured values out of the bytes of a fuzzer: the same bytes make the same values, and any bytes make some."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

ODD_TEXTS: tuple[str, ...] = (
    "",
    " ",
    "*",
    "%2e%2e/%2F?a=b",
    "%" * 64,
    "\u202e",
    "cafe\u0301",
    "\U0010ffff",
    "\0",
    "a" * 300,
    "9" * 5_000,
    "٣",
    "true",
    "null",
    "<<",
)
"""Texts that parsers like least."""

ODD_NUMBERS: tuple[int, ...] = (0, 1, 2, 127, 128, 1_000_000, 1_000_001, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1)
"""Numbers at the bounds of types."""


class Choices:
    """Reads choices from bytes, from the front. At their end every choice is the first, and every text is empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        """A number from 0 to 255."""
        if self._at >= len(self._data):
            return 0
        self._at += 1
        return self._data[self._at - 1]

    def pick(self, options: Sequence[T]) -> T:
        """One of them."""
        return options[self.byte() % len(options)]

    def flag(self) -> bool:
        """True or False."""
        return self.byte() & 1 == 1

    def number(self) -> int:
        """A number at a bound, or one of up to eight bytes."""
        kind = self.byte()
        return ODD_NUMBERS[kind % len(ODD_NUMBERS)] if kind < 128 else int.from_bytes(self.blob(kind % 8 + 1), "big")

    def blob(self, size: int) -> bytes:
        """At most SIZE bytes."""
        start = self._at
        self._at = min(len(self._data), start + size)
        return self._data[start : self._at]

    def text(self, usual: Sequence[str] = ()) -> str:
        """A usual one, an odd one, or what the bytes have."""
        kind = self.byte()
        if usual and kind < 128:
            return usual[kind % len(usual)]
        if kind < 192:
            return ODD_TEXTS[kind % len(ODD_TEXTS)]
        return self.blob(kind - 191).decode("utf-8", "replace")

    def rest(self) -> bytes:
        """All that is left."""
        return self.blob(len(self._data))
