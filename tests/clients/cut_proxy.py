"""A proxy that ceases to forward without closing anything, as a network does that a machine has vanished from."""

import socket
from contextlib import suppress

from clients.late_proxy import LateProxy


class CutProxy(LateProxy):
    """Forwards to PORT. Connections that it has when it is cut stay open, and nothing passes over them any more."""

    def __init__(self, port: int) -> None:
        self._cut: set[socket.socket] = set()
        super().__init__(port, 0)

    @property
    def accepted(self) -> int:
        """How many connections it has accepted so far."""
        return len(self._sockets) // 2

    def cut(self) -> None:
        """Forward nothing more over the connections so far."""
        self._cut.update(self._sockets)

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if source not in self._cut:
                    sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
