"""HTTP/2 by hand (RFC 9113, RFC 7541), for a client that costs little and for attackers that break the rules."""

import struct
from collections.abc import Iterator
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
MAX_WINDOW: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65_535
MAX_FRAME: Final = 16_384
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 3, 4
REFUSED_STREAM: Final = 7
"""The code of a reset: nothing was done with the call."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def opening(window: int = MAX_WINDOW) -> bytes:
    """What a client sends first: the preface, and windows so large that it need not renew them, or of WINDOW bytes."""
    settings = frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, window))
    if window <= DEFAULT_WINDOW:
        return PREFACE + settings
    return PREFACE + settings + frame(WINDOW, 0, 0, struct.pack(">I", window - DEFAULT_WINDOW))


def header_block(path: str, **more: str) -> bytes:
    """The headers of a gRPC call, outside the dynamic table, so that they can be sent again and again."""
    return (
        b"\x83\x86"  # :method POST, :scheme http, from the static table
        + (b"\x04" + _text(path))
        + (b"\x01" + _text("attacks"))
        + (b"\x0f\x10" + _text("application/grpc"))
        + (b"\x00" + _text("te") + _text("trailers"))
        + b"".join(b"\x00" + _text(name.replace("_", "-")) + _text(value) for name, value in more.items())
    )


def message(data: bytes) -> bytes:
    """A gRPC message with its prefix."""
    return b"\x00" + len(data).to_bytes(4, "big") + data


def call(stream: int, block: bytes, body: bytes) -> bytes:
    """A unary call: its headers and its one message, which has its prefix."""
    return frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, body)


class FrameReader:
    """Splits what arrives into frames."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        """The kind, flags, stream and payload of each frame that is complete now."""
        self._buffer += data
        while len(self._buffer) >= 9:
            end = 9 + int.from_bytes(self._buffer[:3], "big")
            if len(self._buffer) < end:
                return
            head, payload, self._buffer = self._buffer[:9], self._buffer[9:end], self._buffer[end:]
            yield head[3], head[4], int.from_bytes(head[5:9], "big") & MAX_WINDOW, payload


def _text(value: str) -> bytes:
    data = value.encode("latin-1")
    if len(data) < 127:
        return bytes((len(data),)) + data
    rest, length = len(data) - 127, b"\x7f"
    while rest >= 128:
        length += bytes((rest % 128 + 128,))
        rest //= 128
    return length + bytes((rest,)) + data
