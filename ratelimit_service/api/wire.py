"""Protobuf's wire format, as far as the hand-written encoders and readers need it.

See "Encoding" in Protocol Buffers' documentation: a field is a tag, (number << 3) | type, then a varint (type 0), or a
length and as many bytes (type 2). Tags of fields up to 15 are one byte.
"""

from typing import Final, Protocol

MICRO: Final = 1_000_000

_PART: Final = 1 << 14
_MASK: Final = _PART - 1
_LAST: Final = [bytes((n,)) if n < 128 else bytes((n & 127 | 128, n >> 7)) for n in range(_PART)]  # noqa: PLR2004 a varint's byte has 7 bits
_CONTINUED: Final = 128
"""A byte of a varint that is at least this is not its last one."""
_VARINT, _LENGTH = 0, 2
_FIXED: Final = {1: 8, 5: 4}
_MORE: Final = [bytes((n & 127 | 128, n >> 7 | 128)) for n in range(_PART)]


class Serializable(Protocol):
    """The response of a method: a message of protobuf, or one that is already bytes."""

    def SerializeToString(self) -> bytes:  # noqa: N802 named as in protobuf
        """The bytes."""
        ...


class Encoded:
    """A message that is already bytes."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def SerializeToString(self) -> bytes:  # noqa: N802
        """The bytes."""
        return self._data


def varint(number: int) -> bytes:
    """A whole number of 0 or more. Two bytes at a time, from tables."""
    if number < _PART:
        return _LAST[number]
    if number < _PART * _PART:
        return _MORE[number & _MASK] + _LAST[number >> 14]
    return _MORE[number & _MASK] + _MORE[number >> 14 & _MASK] + varint(number >> 28)


def text(tag: bytes, value: str) -> bytes:
    """A string field; nothing when it is empty, as in proto3."""
    return submessage(tag, value.encode()) if value else b""


def submessage(tag: bytes, data: bytes) -> bytes:
    """A field that is a message, or any bytes."""
    return b"%b%b%b" % (tag, varint(len(data)), data)


def submessages(tag: int, data: bytes, most: int) -> list[bytes] | None:
    """The messages in DATA, if it is nothing but fields of this TAG and each has less than 16 KiB; otherwise None.

    MOST is the number of them that the caller accepts: of more, the first MOST + 1 are returned.
    """
    parts: list[bytes] = []
    at, end = 0, len(data)
    try:
        for _ in range(most + 1):
            if at >= end:
                break
            size = data[at + 1]
            if data[at] != tag:
                return None
            at += 2
            if size >= 128:  # noqa: PLR2004 a varint's byte has 7 bits
                more = data[at]
                if more >= 128:  # noqa: PLR2004
                    return None
                size += (more << 7) - 128
                at += 1
            parts.append(data[at : at + size])
            at += size
    except IndexError:
        return None
    return parts if at == end or len(parts) > most else None


SCANNED: Final = 8 * 1024
"""Bytes above which a message is scanned before it is parsed. A smaller one is parsed in 0.2 ms, whatever is in it."""


class TooManyFields(Exception):
    """A message has more fields than its reader accepts."""


def spans(data: bytes, start: int, end: int, tag: int, most: int) -> list[tuple[int, int]]:
    """Where in DATA the messages are that the message from START to END has in fields of this TAG.

    Reads MOST fields, of any tag, and raises TooManyFields if there are more. A parser makes an object of each
    field, and 64 KiB may hold 32,768. Stops where the message is malformed, which the parser reports.
    """
    found: list[tuple[int, int]] = []
    at = start
    try:
        for _ in range(most):
            if at >= end:
                return found
            field, at = _read_varint(data, at)
            kind = field & 7
            if kind == _LENGTH:
                size, at = _read_varint(data, at)
                if field == tag:
                    found.append((at, min(at + size, end)))
                at += size
            elif kind == _VARINT:
                _, at = _read_varint(data, at)
            else:  # the beginning and the end of a group have nothing but their tag
                at += _FIXED.get(kind, 0)
    except IndexError:
        return found
    if at < end:
        raise TooManyFields
    return found


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The varint at AT, and where it ends. Raises IndexError if it has no end within ten bytes."""
    byte = data[at]
    if byte < _CONTINUED:
        return byte, at + 1
    number = byte & 127
    for shift in range(7, 70, 7):
        at += 1
        byte = data[at]
        number |= (byte & 127) << shift
        if byte < _CONTINUED:
            return number, at + 1
    raise IndexError


def duration(tag: bytes, microseconds: int) -> bytes:
    """A field that is a google.protobuf.Duration of 0 or more."""
    seconds, rest = divmod(microseconds, MICRO)
    data = b""
    if seconds:
        data = b"\x08" + varint(seconds)
    if rest:
        data += b"\x10" + varint(rest * 1_000)
    return b"%b%c%b" % (tag, len(data), data)
