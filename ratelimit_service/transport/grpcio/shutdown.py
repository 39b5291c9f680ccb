"""Closing connections gracefully before the server stops, so that no call is lost on the way.

The library's own stop refuses calls from the moment it is called, and only then sends GOAWAY to clients: calls that
were on the wire or in its queue at that moment fail, a handful for every busy connection. It has no way to send GOAWAY
alone. An HTTP/2 frame may stand between any two others, so the one of RFC 9113, section 6.8, is written to each
connection from here, at a moment when all that the library has sent is acknowledged and it is between frames. A
client that has read it opens no more calls, ends those under way, closes, and connects to another server. Should the
library begin to write in that very moment, the connection breaks, which is what would happen without this.

Needs Linux, and connections without TLS: otherwise there is only the wait, which is enough for clients and load
balancers that watch our health.
"""

import asyncio
import os
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Final

_NO_ERROR = 0
_GOAWAY_TYPE = 7
_NO_STREAM_IS_REFUSED = 2**31 - 1
_GOAWAY: Final = (
    (8).to_bytes(3, "big")
    + struct.pack(">BBI", _GOAWAY_TYPE, 0, 0)
    + struct.pack(">II", _NO_STREAM_IS_REFUSED, _NO_ERROR)
)
"""Length, type, flags, stream 0; then the last stream that will be answered, and the error code."""

_FRAME_HEADER_BYTES = 9
_BYTES_ACKED_AT = 120
_PACE_SECONDS = 0.01
_QUIET_SECONDS = 0.25

Notify = Callable[[socket.socket], bool]
"""Asks the peer of a connection to close it. False if it was not asked."""


def send_goaway(connection: socket.socket) -> bool:
    """Write GOAWAY, unless something is still under way or the connection has not got beyond its first frame."""
    try:
        if _unacknowledged(connection) or _acknowledged(connection) <= _FRAME_HEADER_BYTES:
            return False
        return connection.send(_GOAWAY, socket.MSG_DONTWAIT) == len(_GOAWAY)
    except OSError:
        return True  # it is closed already


def send_nothing(_connection: socket.socket) -> bool:
    """Leave it to the peer, which may watch our health."""
    return False


async def close_gracefully(port: int, notify: Notify, *, grace: float, patience: float) -> int:
    """NOTIFY each connection to our PORT, new ones too, until no more are opened. Returns how many are left.

    A client that was sent GOAWAY reconnects at once, and while the port is shared the kernel may give it to us again:
    only when no client connects any more is it safe to stop. Connections whose client was not notified are waited for
    GRACE seconds. One that was and is still open has a client that has not read that yet, and may begin a call until
    it does, or one with a stream: it is waited for PATIENCE seconds.
    """
    notified: set[int] = set()
    began = quiet_since = monotonic()
    while True:
        left = _round(port, notified, notify)
        now = monotonic()
        if left:
            quiet_since = now
        if now - began >= (patience if left & notified else grace) or now - quiet_since >= _QUIET_SECONDS:
            return len(left)
        await asyncio.sleep(_PACE_SECONDS)


def _round(port: int, notified: set[int], notify: Notify) -> set[int]:
    """The inodes of the connections that are open; those whose client has been notified are added to NOTIFIED."""
    connections = _connections(port)
    for inode, connection in connections.items():
        with connection:
            if inode not in notified and notify(connection):
                notified.add(inode)
    return set(connections)


def _connections(port: int) -> dict[int, socket.socket]:
    """Duplicates of this process's TCP connections whose own end is PORT, by their inode."""
    if sys.platform != "linux":
        return {}
    found: dict[int, socket.socket] = {}
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            if not str(descriptor.readlink()).startswith("socket:"):
                continue
            connection = socket.socket(fileno=os.dup(int(descriptor.name)))
        except OSError:
            continue  # closed meanwhile
        inode = os.fstat(connection.fileno()).st_ino
        if inode not in found and _is_ours(connection, port):  # the listing itself may have had its descriptor
            found[inode] = connection
        else:
            connection.close()
    return found


def _is_ours(connection: socket.socket, port: int) -> bool:
    if connection.family not in {socket.AF_INET, socket.AF_INET6} or connection.type != socket.SOCK_STREAM:
        return False
    try:
        connection.getpeername()  # raises for one that listens
        return bool(connection.getsockname()[1] == port)
    except OSError:
        return False


def _unacknowledged(connection: socket.socket) -> int:
    """Bytes sent that the peer's kernel has not acknowledged."""
    import fcntl  # noqa: PLC0415 there is none on Windows
    import termios  # noqa: PLC0415

    return int(struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))[0])


def _acknowledged(connection: socket.socket) -> int:
    """Bytes sent so far that the peer's kernel has acknowledged: `tcpi_bytes_acked` of Linux's `struct tcp_info`."""
    information = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED_AT + 8)
    return int(struct.unpack_from("=Q", information, _BYTES_ACKED_AT)[0])
