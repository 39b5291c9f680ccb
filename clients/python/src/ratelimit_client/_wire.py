"""The protobuf wire format, as much of it as the details of a gRPC status need.

The messages of `google.rpc` come with a package (googleapis-common-protos) that registers them for the whole process. A
client library that brought its own would clash with it, and one that needed it would break where a project pins
another version; so the few fields are read and written here. Format: protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}
_MORE = 0x80


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The number and value of each field of MESSAGE, in order. Raises ValueError when it is cut short or malformed."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in _WIDTHS:
            size = _WIDTHS[kind]
        else:
            raise ValueError(f"field {number} has the unknown wire type {kind}")
        if at + size > len(message):
            raise ValueError(f"field {number} is cut short")
        yield number, message[at : at + size]
        at += size


def number_field(number: int, value: int) -> bytes:
    """Field NUMBER with an integer, which must not be negative. 0 is written as proto3 does: not at all."""
    return _to_varint(number << 3 | _VARINT) + _to_varint(value) if value else b""


def bytes_field(number: int, value: bytes) -> bytes:
    """Field NUMBER with a message or a text in UTF-8."""
    return _to_varint(number << 3 | _BYTES) + _to_varint(len(value)) + value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message):
        byte = message[at]
        at += 1
        value |= (byte & (_MORE - 1)) << shift
        if not byte & _MORE:
            return value, at
        shift += 7
    raise ValueError("a number is cut short")


def _to_varint(value: int) -> bytes:
    out = bytearray()
    while value >= _MORE:
        out.append((value & (_MORE - 1)) | _MORE)
        value >>= 7
    out.append(value)
    return bytes(out)
