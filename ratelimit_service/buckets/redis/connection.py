"""One connection to a Redis or Valkey server.

It speaks the protocol itself, on hiredis, rather than through redis-py's connections: a round trip costs 9 us of this
process's CPU instead of 33, and what was sent is known exactly, so nothing is ever sent twice (docs/adr/0002).
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, cast

import hiredis

from ratelimit_service.decision.ports import StoreUnavailable


class ConnectionLost(StoreUnavailable):
    """The connection ended before the answer came. What was asked may have been executed."""


class Address(NamedTuple):
    """Where a server listens: a host and port, or the path of a unix socket."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Login(NamedTuple):
    """How to open a connection. Empty `username` and `password` send no AUTH; `tls` None speaks plain text."""

    username: str = ""
    password: str = ""
    database: int = 0
    tls: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"Login(username={self.username!r}, password=..., database={self.database}, tls={self.tls is not None})"


OnReply = Callable[[object], None]
"""Gets the answer: what hiredis made of it, perhaps a hiredis.ReplyError, or a ConnectionLost."""

_INCOMPLETE: Final = object()


class Connection(asyncio.Protocol):
    """An open connection. Answers come in the order of the commands, each to its own callback, exactly once."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.open = False
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._waiting: deque[OnReply] = deque()
        self._transport: asyncio.Transport | None = None

    def send(self, command: bytes, on_reply: OnReply) -> None:
        """Send a command that is ready for the wire. The link must be open."""
        self._waiting.append(on_reply)
        cast("asyncio.Transport", self._transport).write(command)

    async def ask(self, *words: str | bytes | int) -> object:
        """Send a command and return its answer. Raises hiredis.ReplyError, or ConnectionLost."""
        if not self.open:
            raise ConnectionLost(f"the connection to Redis at {self.address} is closed")
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        def advance(reply: object) -> None:
            if not future.done():
                future.set_result(reply)

        self.send(pack(*words), advance)
        reply = await future
        if isinstance(reply, Exception):
            raise reply
        return reply

    def close(self, why: str) -> None:
        """Close at once. Whoever still waits gets a ConnectionLost that says WHY."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()
        self._fail(ConnectionLost(why))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)
        self.open = True

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _INCOMPLETE:
                if not self._waiting:
                    self.close(f"Redis at {self.address} sent something that nobody asked for")
                    return
                self._waiting.popleft()(reply)
        except hiredis.ProtocolError as fault:
            self.close(f"Redis at {self.address} does not speak the Redis protocol: {fault}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self.open = False
        self._fail(ConnectionLost(f"the connection to Redis at {self.address} was lost{f': {exc}' if exc else ''}"))

    def _fail(self, fault: ConnectionLost) -> None:
        while self._waiting:
            self._waiting.popleft()(fault)


def pack(*words: str | bytes | int) -> bytes:
    """A command, ready for the wire."""
    return cast("bytes", hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub knows tuples of one word only


async def open_connection(address: Address, login: Login) -> Connection:
    """Connect and log in. Raises StoreUnavailable; nothing but the log-in has been sent then. Has no time limit."""
    loop = asyncio.get_running_loop()
    try:
        if address.path:
            _, connection = await loop.create_unix_connection(lambda: Connection(address), address.path)
        else:
            _, connection = await loop.create_connection(
                lambda: Connection(address), address.host, address.port, ssl=login.tls
            )
    except OSError as fault:  # ssl.SSLError is one too
        raise StoreUnavailable(f"cannot connect to Redis at {address}: {fault.strerror or fault}") from fault
    try:
        if login.password:
            await connection.ask("AUTH", *([login.username] if login.username else []), login.password)
        if login.database:
            await connection.ask("SELECT", login.database)
    except hiredis.ReplyError as fault:
        connection.close("the log-in was refused")
        raise StoreUnavailable(f"Redis at {address} refuses the log-in: {fault}") from fault
    except BaseException:
        connection.close("the log-in was given up")
        raise
    return connection
