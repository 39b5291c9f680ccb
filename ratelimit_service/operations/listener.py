"""A port that serves an ASGI application to peers of any kind: what they can hold on to is bounded."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from time import monotonic
from typing import Final, TypeAlias

import structlog
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from ratelimit_service.operations.connection import HttpConnection, http_config
from ratelimit_service.operations.loopback import is_loopback
from ratelimit_service.operations.tls import TlsFiles

MAX_CONNECTIONS: Final = 128
"""At a time. When there are as many, the one that has been idle for longest gives way to a new one; if none is idle,
the oldest whose peer has not read all that was sent to it."""

_HANDSHAKE_SECONDS: Final = 5.0
"""For the first byte, and for the TLS handshake after it."""

_SEND_BUFFER: Final = 64 * 1024
"""Bytes that the kernel holds for a peer, which it doubles: with more, a peer that reads slowly would seem not to."""

_SWEEP_SECONDS: Final = 1.0
_FULL_PAUSE: Final = 0.1
"""Seconds without accepting, when this process may open no more files."""

_TLS_HANDSHAKE: Final = b"\x16"
"""The first byte of a TLS connection, and of no HTTP request."""

_log = structlog.stdlib.get_logger(__name__)

_Open: TypeAlias = "HttpConnection | asyncio.Task[None]"
"""A connection, or the work of opening it."""


class Listener:
    """Accepts connections on a socket that it was given, and that successors of this process have too.

    With certificates a connection is served by TLS or in plain text, as its peer begins. Belongs to the running loop.
    """

    app: ASGIApp
    """What connections that are opened from now on are served with. To be set before `start`."""

    def __init__(self, listening: socket.socket, tls: TlsFiles | None) -> None:
        self.loopback = is_loopback(listening.getsockname()[0])
        """Whether only processes of this machine can connect."""
        self._socket = listening
        self._tls = tls
        self._config = http_config()
        self._state = ServerState()
        self._connections: dict[_Open, None] = {}
        """In the order in which they were opened."""
        self._forgotten = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to accept."""
        self._tasks = [asyncio.create_task(self._accept()), asyncio.create_task(self._sweep())]

    async def close(self, within: float) -> None:
        """Accept no more; requests that are being answered, or are on their way, get at most WITHIN seconds.

        A connection that was opened just now will have one, for which nobody asks again if it is cut.
        """
        await _cancel(self._tasks)
        for connection in self._http():
            connection.finish()
        opening = [each for each in self._connections if isinstance(each, asyncio.Task)]
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await asyncio.gather(*opening, return_exceptions=True)
                for connection in self._http():
                    connection.finish()
                await self._all_closed()
        await _cancel([each for each in opening if not each.done()])
        for connection in self._http():
            connection.transport.abort()
        await _cancel(list(self._state.tasks))
        self._socket.close()

    async def _accept(self) -> None:
        self._socket.settimeout(0)
        while True:
            await _readable(self._socket)
            try:
                accepted, _ = self._socket.accept()  # at once: cancelled between the two, it would be lost
                accepted.settimeout(0)
            except BlockingIOError:  # another process on the socket was faster
                continue
            except OSError as error:
                _log.warning("connection not accepted", error=error.strerror)
                await asyncio.sleep(_FULL_PAUSE)
                continue
            if len(self._connections) >= MAX_CONNECTIONS and not self._make_room():
                accepted.close()
                continue
            opening = asyncio.create_task(self._open(accepted))
            self._connections[opening] = None
            opening.add_done_callback(self._forget)

    def _make_room(self) -> bool:
        """Close the connection that has waited for a request for longest, or else one whose peer is slow to read.

        Returns False if there is none: peers that read slowly must not keep out those who ask whether we are ready.
        """
        idle = (each for each in self._connections if isinstance(each, asyncio.Task) or each.idle)
        slow = (each for each in self._http() if each.unread)
        leaving = next(idle, None) or next(slow, None)
        if leaving is None:
            return False
        if isinstance(leaving, asyncio.Task):
            leaving.cancel()
        else:
            leaving.transport.abort()
        self._forget(leaving)
        return True

    async def _open(self, accepted: socket.socket) -> None:
        """Find out whether the peer speaks TLS, and serve it."""
        loop = asyncio.get_running_loop()
        connection = self._connection()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        try:
            async with asyncio.timeout(2 * _HANDSHAKE_SECONDS):
                context = await self._context(accepted)
                await loop.connect_accepted_socket(  # uvloop returns its own protocol for TLS, not ours
                    lambda: connection,
                    accepted,
                    ssl=context,
                    ssl_handshake_timeout=None if context is None else _HANDSHAKE_SECONDS,
                )
        except (OSError, TimeoutError, asyncio.CancelledError):
            accepted.close()
        else:
            if not connection.transport.is_closing():
                self._connections[connection] = None

    async def _context(self, accepted: socket.socket) -> ssl.SSLContext | None:
        if self._tls is None:
            return None
        await _readable(accepted)
        return self._tls.context() if accepted.recv(1, socket.MSG_PEEK) == _TLS_HANDSHAKE else None

    def _connection(self) -> HttpConnection:
        connection = HttpConnection(self._config, self._state, {}, asyncio.get_running_loop(), on_close=self._forget)
        connection.app = self.app
        return connection

    def _forget(self, each: _Open) -> None:
        self._connections.pop(each, None)
        self._forgotten.set()

    async def _all_closed(self) -> None:
        while self._http():
            self._forgotten.clear()
            await self._forgotten.wait()

    def _http(self) -> list[HttpConnection]:
        return [each for each in self._connections if isinstance(each, HttpConnection)]

    async def _sweep(self) -> None:
        while True:
            now = monotonic()
            for connection in self._http():
                if connection.overdue(now):
                    connection.transport.abort()
            self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
            await asyncio.sleep(_SWEEP_SECONDS)


async def _readable(waiting: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    set_ready: Callable[[], None] = lambda: None if ready.done() else ready.set_result(None)  # noqa: E731
    loop.add_reader(waiting, set_ready)
    try:
        await ready
    finally:
        loop.remove_reader(waiting)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
