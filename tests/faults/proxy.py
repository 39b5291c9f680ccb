"""A TCP proxy between a server and its store, with the faults of a network, which are real to both ends.

    with FaultProxy(valkey.port) as proxy:
        server = serve("grpcio", redis_url=proxy.url)
        proxy.inject(delay=0.03)
        ...
        proxy.heal()

It forwards bytes and knows no protocol but for one thing: what a store sends back in one piece is taken for one reply.
"""

import asyncio
import random
import socket
import ssl
import struct
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Final

from faults.relay import Relay

_PIECE: Final = 2**18
_LINGER: Final = struct.pack("ii", 1, 0)  # close with a reset


@dataclass(frozen=True)
class Faults:
    """What becomes of replies."""

    delay: float = 0.0
    """Seconds by which each is late."""
    jitter: float = 0.0
    """Seconds by which each is later still at most, at random. They stay in order."""
    bandwidth: float = inf
    """Bytes of them a second on each connection."""
    lost: float = 0.0
    """The share of them in place of which the connection is cut, after the store has executed the command."""
    half_open: bool = False
    """Nothing comes back, no end of the connection either: never again on a connection that has met this fault. New
    ones are accepted, and what callers send is forwarded."""


class FaultProxy(Relay):
    """Forwards from a port of its own on loopback to `target_port`, which may be changed for connections to come."""

    def __init__(self, target_port: int, *, seed: int = 1, tls: ssl.SSLContext | None = None) -> None:
        """With TLS, its own port is a TLS port."""
        super().__init__(tls)
        self.target_port = target_port
        self.faults = Faults()
        self.lost: list[bytes] = []
        """The replies in place of which connections were cut."""
        self.connections = 0
        """Accepted so far."""
        self._lose_next = 0
        self._random = random.Random(seed)
        self._open: set[_Connection] = set()

    @property
    def url(self) -> str:
        """The URL of a Redis through the proxy."""
        return f"redis://127.0.0.1:{self.port}"

    def inject(self, **faults: float) -> None:
        """Have these Faults, and no others, from now on."""
        self.faults = Faults(**faults)

    def heal(self) -> None:
        """Have no faults from now on."""
        self.faults = Faults()

    def lose_next_reply(self, times: int = 1) -> None:
        """Cut the connection in place of the next reply."""
        self._lose_next = times

    def reset(self) -> None:
        """End all connections with a TCP reset on both sides."""
        self.do(self._reset())

    def close_all(self) -> None:
        """End all connections, in order, on both sides."""
        self.do(self._close_all())

    def take_reply(self, reply: bytes) -> bool:
        """Whether to cut the connection in place of this reply."""
        if self._lose_next > 0:
            self._lose_next -= 1
        elif not self._random.random() < self.faults.lost:
            return False
        self.lost.append(reply)
        return True

    def due(self, last: float, size: int) -> float:
        """When a reply of SIZE bytes may be passed on, after one at LAST."""
        faults, now = self.faults, self.now()
        late = now + faults.delay + self._random.uniform(0, faults.jitter)
        return max(late, last) + size / faults.bandwidth

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection, until either end ends it."""
        self.connections += 1
        try:
            from_store, to_store = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.close()
            return
        connection = _Connection(self, writer, to_store)
        self._open.add(connection)
        try:
            await connection.forward(reader, from_store)
        finally:
            self._open.discard(connection)

    async def _reset(self) -> None:
        for connection in self._open:
            connection.reset()

    async def _close_all(self) -> None:
        for connection in self._open:
            connection.close()

    async def _stop(self) -> None:
        await self._reset()
        await super()._stop()


class _Connection:
    """One connection on either side."""

    def __init__(self, proxy: FaultProxy, to_caller: asyncio.StreamWriter, to_store: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._to_caller = to_caller
        self._to_store = to_store
        self._replies: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self._silent = False

    async def forward(self, from_caller: asyncio.StreamReader, from_store: asyncio.StreamReader) -> None:
        """Forward until a side ends it."""
        back = asyncio.ensure_future(self._back(from_store))
        replies = asyncio.ensure_future(self._pass_replies())
        forth = asyncio.ensure_future(self._forth(from_caller))
        try:
            await asyncio.wait({back, forth}, return_when=asyncio.FIRST_COMPLETED)
            if self._silent:  # the caller sees no end of it
                await forth
        finally:
            for task in (back, forth, replies):
                task.cancel()
            self.close()

    def close(self) -> None:
        """End both sides."""
        self._to_caller.close()
        self._to_store.close()

    def reset(self) -> None:
        """End both sides with a TCP reset."""
        for writer in (self._to_caller, self._to_store):
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            writer.transport.abort()

    async def _forth(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(_PIECE):
                self._to_store.write(data)

    async def _back(self, reader: asyncio.StreamReader) -> None:
        due = 0.0
        with suppress(ConnectionError):
            while data := await reader.read(_PIECE):
                self._silent = self._silent or self._proxy.faults.half_open
                if self._silent:
                    continue
                if self._proxy.take_reply(data):
                    return
                due = self._proxy.due(due, len(data))
                self._replies.put_nowait((due, data))
        self._silent = self._silent or self._proxy.faults.half_open
        if not self._silent:
            await self._replies.join()

    async def _pass_replies(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await self._replies.get()
            wait = due - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            self._silent = self._silent or self._proxy.faults.half_open
            if not self._silent:
                self._to_caller.write(data)
            self._replies.task_done()
