"""One connection to a Redis or Valkey server.

It speaks the protocol itself, on hiredis, rather than through redis-py's connections: a round trip costs 9 us of this
process's CPU instead of 33, and what was sent is known exactly, so nothing is ever sent twice (docs/adr/0002).
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, TypeVar, cast

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


_T = TypeVar("_T")

OnReply = Callable[[object], None]
"""Gets the answer: what hiredis made of it, perhaps a hiredis.ReplyError, or a ConnectionLost."""

PAUSE: Final = 0.01
"""Seconds before a command is sent again to a server that is not ready yet."""

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


class StandaloneRoute:
    """The way to one server at a fixed address (which a name or a proxy may move)."""

    def __init__(self, address: Address, login: Login) -> None:
        self._address = address
        self._login = login
        self._connection: Connection | None = None

    def connection(self) -> Connection | None:
        """The open link, if there is one now."""
        connection = self._connection
        return connection if connection is not None and connection.open else None

    async def recover(self, refusal: str) -> Connection:
        """Connect where that is needed, after a pause where the server is not ready."""
        connection = self.connection()
        if connection is not None and not refusal.startswith(("READONLY", "MASTERDOWN")):
            await asyncio.sleep(PAUSE)
            if connection.open:
                return connection
        if connection is not None:
            # It has become a replica: whoever is behind the name now is perhaps the master.
            connection.close(f"Redis at {connection.address} is not the master any more")
        if refusal:
            await asyncio.sleep(PAUSE)
        self._connection = await open_connection(self._address, self._login)
        return self._connection

    async def close(self) -> None:
        """Close the link."""
        if self._connection is not None:
            self._connection.close("the bucket store was closed")


async def first(tries: Sequence[Awaitable[_T]], failure: str) -> _T:
    """The result of the first that succeeds; the others are given up. Raises StoreUnavailable with all their faults."""
    tasks = [asyncio.ensure_future(attempt) for attempt in tries]
    faults = []
    try:
        for task in asyncio.as_completed(tasks):
            try:
                return await task
            except StoreUnavailable as fault:
                faults.append(str(fault))
    finally:
        for task in tasks:
            task.cancel()
    raise StoreUnavailable(f"{failure}: {'; '.join(faults)}")
