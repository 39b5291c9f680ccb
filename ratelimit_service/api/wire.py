"""Protobuf's wire format, as far as the hand-written encoders and readers need it.

See "Encoding" in Protocol Buffers' documentation: a field is a tag, (number << 3) | type, then a varint (type 0), or a
length and as many bytes (type 2). Tags of fields up to 15 are one byte.
"""

from typing import Final, Protocol

MICRO: Final = 1_000_000

_PART: Final = 1 << 14
_MASK: Final = _PART - 1
_LAST: Final = [bytes((n,)) if n < 128 else bytes((n & 127 | 128, n >> 7)) for n in range(_PART)]  # noqa: PLR2004 a varint's byte has 7 bits
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


def submessages(tag: int, data: bytes) -> list[bytes] | None:
    """The messages in DATA, if it is nothing but fields of this TAG and each has less than 16 KiB; otherwise None."""
    parts = []
    at, end = 0, len(data)
    try:
        while at < end:
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
    return parts if at == end else None


def duration(tag: bytes, microseconds: int) -> bytes:
    """A field that is a google.protobuf.Duration of 0 or more."""
    seconds, rest = divmod(microseconds, MICRO)
    data = b""
    if seconds:
        data = b"\x08" + varint(seconds)
    if rest:
        data += b"\x10" + varint(rest * 1_000)
    return b"%b%c%b" % (tag, len(data), data)
