"""Proxies that accept connections late, or never, as some do that are overloaded or wake their server up first."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from clients.contract import Case
from clients.scripted_server import ScriptedServer


@contextmanager
def target_of(case: Case, server: ScriptedServer) -> Iterator[str]:
    """The address for the client of CASE: the server's, or that of a proxy in front of it."""
    if "accepts_after_ms" not in case:
        yield server.target
        return
    after = case["accepts_after_ms"]
    proxy = LateProxy(server.port, None if after is None else after / 1000)
    try:
        yield proxy.target
    finally:
        proxy.close()


class LateProxy:
    """Listens at once and forwards to PORT, but accepts only AFTER seconds from now, or never if that is None."""

    def __init__(self, port: int, after: float | None) -> None:
        self._port = port
        self._accepts_at = None if after is None else time.monotonic() + after
        self._closed = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.target = f"127.0.0.1:{self._listening.getsockname()[1]}"
        if self._accepts_at is not None:
            self._start(self._accept)

    def close(self) -> None:
        """Close all connections and end the threads."""
        self._closed.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        if self._threads:
            self._threads[0].join()  # no new ones after this
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        assert self._accepts_at is not None
        if self._closed.wait(max(0.0, self._accepts_at - time.monotonic())):
            return
        while self._accept_one():
            pass

    def _accept_one(self) -> bool:
        """Forward one connection. Returns whether there was one before the proxy was closed."""
        try:
            near, _ = self._listening.accept()
        except OSError:  # closed
            return False
        far = socket.create_connection(("127.0.0.1", self._port))
        self._sockets += [near, far]
        self._start(self._forward, near, far)
        self._start(self._forward, far, near)
        return True

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


class FirstProxy(LateProxy):
    """Accepts the first connection at once, and all others AFTER seconds from now."""

    def _accept(self) -> None:
        if self._accept_one():
            super()._accept()
