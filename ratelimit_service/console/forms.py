"""Forms that browsers send, read within bounds."""

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request

MAX_FORM_BYTES: Final = 65_536
"""Size of a form, as it is sent; forms with documents in them may be larger."""

MAX_DOCUMENT_BYTES: Final = 1_048_576
"""Size of a form with a document in it, such as the rules of a domain."""

MAX_FIELDS: Final = 2_048
"""Fields of a form: the thousand keys of a bulk action, and more."""

MAX_QUERY_BYTES: Final = 8_192
"""Length of a query, as it is sent."""


class FormTooLarge(Exception):
    """More bytes or fields than the form may have."""


class NotAForm(Exception):
    """Another content type, or not UTF-8."""


class Fields:
    """The fields of a form or of a query. A field that is absent reads as empty."""

    def __init__(self, pairs: Sequence[tuple[str, str]] = ()) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def text(self, name: str, default: str = "") -> str:
        """The first value of a field, without blanks at its ends, and DEFAULT if it is absent."""
        values = self._values.get(name)
        return values[0].strip() if values else default

    def raw(self, name: str) -> str:
        """The first value of a field as it was sent."""
        return self._values.get(name, [""])[0]

    def all(self, name: str) -> list[str]:
        """All values of a field."""
        return [value.strip() for value in self._values.get(name, ())]

    def whole(self, name: str, default: int = 0) -> int | None:
        """A whole number, DEFAULT if it is empty. None if it is not one. Thousands may be separated by commas."""
        text = self.text(name).replace(",", "")
        if not text:
            return default
        digits = text.removeprefix("-")
        return int(text) if digits.isascii() and digits.isdigit() and len(digits) <= 19 else None  # noqa: PLR2004  64 bits

    def names(self) -> Mapping[str, Sequence[str]]:
        """All fields."""
        return self._values


async def read_form(request: Request, max_bytes: int) -> Fields:
    """Read the form of a request. Raises FormTooLarge beyond MAX_BYTES or MAX_FIELDS, and NotAForm."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise NotAForm
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            raise FormTooLarge
    return _parse(bytes(body))


def read_query(request: Request) -> Fields:
    """Read the query of a request. Raises FormTooLarge or NotAForm, as `read_form` does."""
    query: bytes = request.scope.get("query_string", b"")
    if len(query) > MAX_QUERY_BYTES:
        raise FormTooLarge
    return _parse(query)


def _parse(text: bytes) -> Fields:
    if text.count(b"&") >= MAX_FIELDS:
        raise FormTooLarge
    try:
        return Fields(parse_qsl(text.decode("ascii"), keep_blank_values=True, errors="strict"))
    except (UnicodeDecodeError, ValueError):
        raise NotAForm from None
