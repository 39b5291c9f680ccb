"""How many fields a serialized message has, found before the library parses it.

The library parses a message in one go and lets nobody else in meanwhile: half a million empty items, which fit into
1 MB, take 50 ms. This takes longer, but others get their turn. https://protobuf.dev/programming-guides/encoding
"""

from collections.abc import Mapping
from functools import cache
from typing import Final

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from ratelimit_service.errors import InvalidArgument

MAX_FIELDS: Final = 100_000
"""Of a message and all within it: 1,000 keys with 16 labels each have 55,000. The library parses them in 10 ms."""

_VARINT, _FIXED64, _BYTES, _START, _END, _FIXED32 = range(6)
_MAX_SHIFT: Final = 63


class _Malformed(Exception):
    """What follows is no field."""


def check_fields(data: bytes, message: type[Message]) -> None:
    """Raise InvalidArgument (field `message`) if DATA, a message of this type, has more fields than any use has.

    DATA that is malformed passes, up to MAX_FIELDS as well.
    """
    count = 0
    parts: list[tuple[int, int, Descriptor]] = [(0, len(data), message.DESCRIPTOR)]  # type: ignore[list-item]
    while parts:
        at, end, descriptor = parts.pop()
        below = _messages_of(descriptor)
        while at < end:
            count += 1
            if count > MAX_FIELDS:
                raise InvalidArgument.of(
                    "message", f"has more than {MAX_FIELDS:,} fields; send less at once, or leave out what is empty"
                )
            try:
                tag, at = _varint(data, at, end)
                kind, number = tag & 7, tag >> 3
                if kind == _BYTES:
                    size, at = _varint(data, at, end)
                    if number in below:
                        parts.append((at, min(at + size, end), below[number]))
                    at += size
                else:
                    at = _after(data, at, end, kind)
            except _Malformed:
                break


def _after(data: bytes, at: int, end: int, kind: int) -> int:
    """Where the value that begins at AT ends. What is in a group, which only unknown fields are, counts like others."""
    if kind == _VARINT:
        return _varint(data, at, end)[1]
    if kind == _FIXED64:
        return at + 8
    if kind == _FIXED32:
        return at + 4
    if kind in {_START, _END}:
        return at
    raise _Malformed


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number that begins at AT, and where it ends."""
    value = shift = 0
    while at < end and shift <= _MAX_SHIFT:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004  the bit that says that more follows
            return value, at
        shift += 7
    raise _Malformed


@cache
def _messages_of(descriptor: Descriptor) -> Mapping[int, Descriptor]:
    """The messages that can be within one of this type, by the number of the field."""
    return {field.number: field.message_type for field in descriptor.fields if field.message_type is not None}
