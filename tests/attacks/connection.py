"""A connection of an attacker: it sends whatever bytes it is given, and counts the frames that come back."""

import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Final, Self

from attacks import frames
from ratelimit_service.settings import Settings

MAX_STREAMS: Final[int] = Settings.model_fields["max_concurrent_streams"].default
"""Calls that a server allows on one connection by default; the transport grpcio twice as many."""

CANCEL: Final = 8
STREAM: Final = "/ratelimit.v1.RateLimitService/StreamCheckLimit"
CHECK: Final = "/ratelimit.v1.RateLimitService/CheckLimit"


def settings(values: Mapping[int, int] | None = None) -> bytes:
    """A SETTINGS frame."""
    return frames.frame(frames.SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in (values or {}).items()))


def open_call(stream: int, block: bytes, *, end: bool = False) -> bytes:
    """HEADERS, complete."""
    return frames.frame(frames.HEADERS, frames.END_HEADERS | (frames.END_STREAM if end else 0), stream, block)


def data(stream: int, body: bytes, *, end: bool = False) -> bytes:
    """DATA."""
    return frames.frame(frames.DATA, frames.END_STREAM if end else 0, stream, body)


def reset(stream: int, code: int = CANCEL) -> bytes:
    """RST_STREAM."""
    return frames.frame(frames.RESET, 0, stream, struct.pack(">I", code))


def window(stream: int, more: int) -> bytes:
    """WINDOW_UPDATE."""
    return frames.frame(frames.WINDOW, 0, stream, struct.pack(">I", more))


class Connection:
    """A TCP connection that has sent the preface and SETTINGS. What comes back is read only on demand."""

    def __init__(self, address: str, greeting: bytes | None = None, *, receive_buffer: int = 0) -> None:
        """GREETING replaces what it sends first; RECEIVE_BUFFER is in bytes, 0 for the kernel's own."""
        host, _, port = address.rpartition(":")
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(10)
        try:
            self.socket.connect((host, int(port)))
        except OSError:
            self.socket.close()
            raise
        self.received: Counter[int] = Counter()
        """Frames that were read, by their type."""
        self.resets: Counter[int] = Counter()
        """RST_STREAM that were read, by their error code."""
        self.goaway: int | None = None
        """The error code of the GOAWAY that was read, None before."""
        self.ended: set[int] = set()
        """Streams that the server has ended, in whatever way."""
        self.theirs: dict[int, int] = {}
        """The server's SETTINGS."""
        self.closed = False
        """Whether the server has closed the connection."""
        self._reader = frames.FrameReader()
        self.send(frames.PREFACE + settings() if greeting is None else greeting)

    def send(self, what: bytes, seconds: float = 5.0) -> bool:
        """Send all of it. False if the server closed the connection, or took nothing for so many seconds."""
        self.socket.settimeout(seconds)
        try:
            self.socket.sendall(what)
        except TimeoutError:
            return False
        except OSError:
            self.closed = True
            return False
        return True

    def read(self, seconds: float = 0.0) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield what arrives within so many seconds; 0: what is there. SETTINGS and PING are acknowledged."""
        until = time.monotonic() + seconds
        while not self.closed:
            if not select.select([self.socket], [], [], max(until - time.monotonic(), 0.0))[0]:
                return
            try:
                arrived = self.socket.recv(1 << 18)
            except OSError:
                arrived = b""
            self.closed = not arrived
            for found in self._reader.feed(arrived):
                self._note(*found)
                yield found
            if time.monotonic() >= until:
                return

    def drain(self, seconds: float = 0.0) -> None:
        """Read what arrives within so many seconds and keep what is counted."""
        for _ in self.read(seconds):
            pass

    def wait_closed(self, seconds: float) -> bool:
        """Whether the server closes the connection within so many seconds."""
        until = time.monotonic() + seconds
        while not self.closed and (left := until - time.monotonic()) > 0:
            self.drain(min(0.2, left))
        return self.closed

    def wait_ended(self, stream: int, seconds: float) -> bool:
        """Whether the server ends the stream, or the connection, within so many seconds."""
        until = time.monotonic() + seconds
        while stream not in self.ended and not self.closed and time.monotonic() < until:
            self.drain(0.05)
        return stream in self.ended or self.closed

    def close(self) -> None:
        """Close it."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _note(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self.received[kind] += 1
        if kind == frames.GOAWAY:
            self.goaway = int.from_bytes(payload[4:8], "big")
        elif kind == frames.RESET:
            self.resets[int.from_bytes(payload, "big")] += 1
            self.ended.add(stream)
        elif kind in {frames.DATA, frames.HEADERS} and flags & frames.END_STREAM:
            self.ended.add(stream)
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            self.theirs |= dict(struct.iter_unpack(">HI", payload))
            self.send(frames.frame(frames.SETTINGS, frames.ACK, 0))
        elif kind == frames.PING and not flags & frames.ACK:
            self.send(frames.frame(frames.PING, frames.ACK, 0, payload))


class Sender:
    """Sends messages on the streams of a connection as fast as the server's windows allow, and reads nothing else.

    To be made before anything was read of the connection.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._more = Counter({0: frames.DEFAULT_WINDOW})
        """What may be sent on the connection (0), and on a stream beside what may be on each from the start."""

    def take(self, seconds: float = 0.0) -> None:
        """Read what arrives within so many seconds."""
        for kind, _, stream, payload in self._connection.read(seconds):
            if kind == frames.WINDOW:
                self._more[stream] += int.from_bytes(payload, "big")

    def send(self, stream: int, body: bytes, seconds: float) -> bool:
        """Send all of it. False if the server took nothing for so many seconds, or closed the connection."""
        sent, until = 0, time.monotonic() + seconds
        while sent < len(body):
            self.take()
            at_first = self._connection.theirs.get(frames.INITIAL_WINDOW_SIZE, frames.DEFAULT_WINDOW)
            size = min(self._more[0], self._more[stream] + at_first, frames.MAX_FRAME, len(body) - sent)
            if size > 0:
                if not self._connection.send(data(stream, body[sent : sent + size]), seconds):
                    return False
                sent, until = sent + size, time.monotonic() + seconds
                self._more[0] -= size
                self._more[stream] -= size
            elif self._connection.closed or time.monotonic() >= until:
                return False
            else:
                self.take(0.02)
        return True
