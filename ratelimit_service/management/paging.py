"""Pages of a list: their size, and the token that continues one with the next."""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Generic, TypeVar

from ratelimit_service.errors import InvalidArgument

T = TypeVar("T")

_DEFAULT_SIZE = 100
_MAX_SIZE = 1000
_CHECK_BYTES = 8
_MAX_NUMBER = 2**63
_NUMBER = re.compile(r"[0-9]{1,19}")
_MAX_TOKEN = 32_768
"""Characters of a token. The longest that are issued name a group of usage: a few texts of a few hundred bytes."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list. `next_page_token` is empty when it is the last."""

    items: Sequence[T]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Paging:
    """The page requested: how many items at most, and the `next_page_token` of the previous page, or empty."""

    page_size: int = 0
    page_token: str = ""

    @property
    def size(self) -> int:
        """The maximum number of items: 1 to 1000, and 100 for 0. Raises InvalidArgument (field `page_size`)."""
        if not 0 <= self.page_size <= _MAX_SIZE:
            raise InvalidArgument.of("page_size", f"is {self.page_size}; it must be between 1 and {_MAX_SIZE}, or 0")
        return self.page_size or _DEFAULT_SIZE

    def position(self, *filters: str) -> str:
        """Where the page starts: after the item at this position, or at the start when it is empty.

        Raises InvalidArgument (field `page_token`) for a token that was not issued for a list with these filters.
        """
        if not self.page_token:
            return ""
        if len(self.page_token) > _MAX_TOKEN:
            raise invalid_token()
        try:
            raw = base64.b64decode(self.page_token.encode("ascii"), altchars=b"-_", validate=True)
            check, position = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:].decode()
        except (binascii.Error, UnicodeError):
            check, position = b"", ""
        if not position or "\0" in position or check != _check(filters, position):
            raise invalid_token()
        return position

    def number(self, *filters: str) -> int | None:
        """Return the position in a list that is ordered by a number, None at the start. Raises like `position`."""
        position = self.position(*filters)
        if not position:
            return None
        if not _NUMBER.fullmatch(position) or int(position) >= _MAX_NUMBER:
            raise invalid_token()
        return int(position)

    def page(self, found: Sequence[T], positions: Sequence[str], *filters: str) -> Page[T]:
        """Make the page from the items FOUND, of which one more than `size` was requested, and their positions."""
        size = self.size
        if len(found) <= size:
            return Page(found, "")
        position = positions[size - 1]
        raw = _check(filters, position) + position.encode()
        return Page(found[:size], base64.urlsafe_b64encode(raw).decode())


def _check(filters: Sequence[str], position: str) -> bytes:
    """Bind a position to its list. Not secret: it catches mistakes, and a caller who may list may list everything."""
    return sha256("\0".join([*filters, position]).encode()).digest()[:_CHECK_BYTES]


def invalid_token() -> InvalidArgument:
    """Return the error for a token that was not issued for the list."""
    return InvalidArgument.of(
        "page_token",
        "was not issued for this list; send the next_page_token of the previous response, with the other fields "
        "unchanged, or start without one",
    )
