"""A closed-loop load generator for unary gRPC calls, each with a different body, which h2load cannot send.

It writes HTTP/2 frames by hand (RFC 9113) with headers that use no dynamic table (RFC 7541), so that a call costs about
as little as with h2load. It runs as a process of its own:

    python -m bench.http2_load PORT PATH BODIES CONNECTIONS STREAMS SECONDS WARM_UP

BODIES is a file of protobuf messages, each after its length in 4 bytes, big endian. The result is one line of JSON.
"""

import asyncio
import json
import struct
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import cast

import uvloop

from bench.load import Load, Result

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_MAX_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65_535
_HEADER = 9
_GRACE = 0.2  # seconds to wait for calls in flight at the end


class Tally:
    """The calls that were answered and that failed, and the seconds that each took."""

    def __init__(self) -> None:
        self.answered = 0
        self.failed = 0
        self.seconds: list[float] = []
        self.running = True

    def reset(self) -> None:
        """Start counting again from zero."""
        self.answered = self.failed = 0
        self.seconds.clear()


class Connection(asyncio.Protocol):
    """One connection with a fixed number of calls in flight."""

    def __init__(self, path: str, bodies: "cycle[bytes]", streams: int, tally: Tally) -> None:
        block = _header_block(path)
        self._before = _frame_start(len(block), _HEADERS, _END_HEADERS)
        self._block = block
        self._bodies = bodies
        self._streams = streams
        self._tally = tally
        self._next = 1
        self._started: dict[int, float] = {}
        self._with_data: set[int] = set()
        self._buffer = b""
        self._window = _DEFAULT_WINDOW
        self._received = 0
        self._to_start = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the preface and start the first calls."""
        self._transport = transport = cast("asyncio.Transport", transport)
        settings = struct.pack(">HI", 4, _MAX_WINDOW)
        transport.write(
            _PREFACE
            + _frame_start(len(settings), _SETTINGS, 0)
            + bytes(4)
            + settings
            + _frame_start(4, _WINDOW, 0)
            + bytes(4)
            + struct.pack(">I", _MAX_WINDOW - _DEFAULT_WINDOW)
        )
        self._to_start = self._streams
        self._start_calls([])

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the calls that were cut off."""
        if self._tally.running or exc is not None:
            self._tally.failed += len(self._started)

    def data_received(self, data: bytes) -> None:
        """Count the calls that ended, and start as many again."""
        data = self._buffer + data
        position, end = 0, len(data)
        out: list[bytes] = []
        now = time.perf_counter()
        while end - position >= _HEADER:
            length = (data[position] << 16) | (data[position + 1] << 8) | data[position + 2]
            if end - position < _HEADER + length:
                break
            kind, flags = data[position + 3], data[position + 4]
            stream = int.from_bytes(data[position + 5 : position + 9]) & _MAX_WINDOW
            payload = position + _HEADER
            position = payload + length
            if kind == _DATA:
                self._with_data.add(stream)
                self._received += length
            if kind == _RESET or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
                self._finish(stream, kind, now)
            elif kind == _WINDOW and stream == 0:
                self._window += int.from_bytes(data[payload : payload + 4])
            elif kind == _SETTINGS and not flags & _ACK:
                out.append(_frame_start(0, _SETTINGS, _ACK) + bytes(4))
            elif kind == _PING and not flags & _ACK:
                out.append(_frame_start(8, _PING, _ACK) + bytes(4) + data[payload:position])
            elif kind == _GOAWAY:
                self._transport.close()
                return
        self._buffer = data[position:]
        if self._received > 2**29:
            out.append(_frame_start(4, _WINDOW, 0) + bytes(4) + struct.pack(">I", self._received))
            self._received = 0
        self._start_calls(out)

    def _finish(self, stream: int, kind: int, now: float) -> None:
        self._tally.seconds.append(now - self._started.pop(stream))
        if kind != _RESET and stream in self._with_data:
            self._tally.answered += 1
        else:
            self._tally.failed += 1
        self._with_data.discard(stream)
        self._to_start += 1

    def _start_calls(self, out: list[bytes]) -> None:
        if self._tally.running:
            now = time.perf_counter()
            for _ in range(self._to_start):
                body = next(self._bodies)
                if self._window < len(body):
                    break
                self._window -= len(body)
                self._to_start -= 1
                stream = struct.pack(">I", self._next)
                self._started[self._next] = now
                self._next += 2
                out += (self._before, stream, self._block, _frame_start(len(body), _DATA, _END_STREAM), stream, body)
        if out:
            self._transport.write(b"".join(out))


def _frame_start(length: int, kind: int, flags: int) -> bytes:
    return length.to_bytes(3) + bytes((kind, flags))


def _header_block(path: str) -> bytes:
    def text(value: str) -> bytes:
        return bytes((len(value),)) + value.encode()

    return (
        b"\x83\x86"  # :method POST, :scheme http, from the static table
        + (b"\x04" + text(path))
        + (b"\x01" + text("bench"))
        + (b"\x0f\x10" + text("application/grpc"))
        + (b"\x00" + text("te") + text("trailers"))
    )


def read_bodies(path: Path) -> list[bytes]:
    """The messages of a file, each with the gRPC prefix."""
    raw, position, bodies = path.read_bytes(), 0, []
    while position < len(raw):
        length = int.from_bytes(raw[position : position + 4])
        bodies.append(b"\x00" + raw[position : position + 4 + length])
        position += 4 + length
    return bodies


async def run(port: int, path: str, bodies: list[bytes], load: Load) -> Tally:
    """Keep the calls of LOAD in flight for its seconds."""
    tally = Tally()
    loop = asyncio.get_running_loop()
    endless = cycle(bodies)
    opened = [
        await loop.create_connection(lambda: Connection(path, endless, load.streams, tally), "127.0.0.1", port)
        for _ in range(load.connections)
    ]
    await asyncio.sleep(load.warm_up)
    tally.reset()
    await asyncio.sleep(load.seconds)
    tally.running = False
    await asyncio.sleep(_GRACE)
    for transport, _ in opened:
        transport.close()
    return tally


def http2_load(port: int, path: str, bodies: Path, load: Load) -> Result:
    """Send the messages of BODIES in turn to PATH, from a process of its own."""
    arguments = (port, path, bodies, load.connections, load.streams, load.seconds, load.warm_up)
    command = [sys.executable, "-m", __name__, *map(str, arguments)]
    return Result(**json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def main() -> None:
    """Run as described in the module's docstring."""
    port, path, bodies, connections, streams, seconds, warm_up = sys.argv[1:]
    load = Load(int(connections), int(streams), float(seconds), float(warm_up))
    tally = uvloop.run(run(int(port), path, read_bodies(Path(bodies)), load))
    ordered = sorted(tally.seconds) or [0.0]
    p50_ms, p99_ms = ordered[len(ordered) // 2] * 1e3, ordered[len(ordered) * 99 // 100] * 1e3
    print(json.dumps(Result(tally.answered, tally.failed, load.seconds, p50_ms, p99_ms)._asdict()))


if __name__ == "__main__":
    main()
