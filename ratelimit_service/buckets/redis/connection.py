"""One connection to a Redis or Valkey server.

It implements the protocol itself, on hiredis, rather than use redis-py's connections: a round trip costs 9 us of this
process's CPU instead of 33, and what was sent is known exactly, so nothing is ever sent twice (docs/adr/0002).
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, cast

import hiredis

from ratelimit_service.buckets.redis.room import Room
from ratelimit_service.decision.ports import StoreUnavailable


class ConnectionLost(StoreUnavailable):
    """The connection ended, or was given up, before the reply came. The command may have been executed.

    Who gets it may set `late`, which then gets the reply if it comes late, or another ConnectionLost if it never does.
    `conclusive`: whether it shows that the server is away. It does not where the server may have needed longer.
    """

    late: "OnReply | None" = None

    def __init__(self, message: str, *, conclusive: bool = True) -> None:
        super().__init__(message)
        self.conclusive = conclusive


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
    """How to open a connection. Empty `username` and `password` send no AUTH; `tls` None is plain text."""

    username: str = ""
    password: str = ""
    database: int = 0
    tls: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"Login(username={self.username!r}, password=..., database={self.database}, tls={self.tls is not None})"


OnReply = Callable[[object], None]
"""Gets the reply as parsed by hiredis, perhaps a hiredis.ReplyError, or a ConnectionLost."""

Greeting = Callable[["Connection"], Awaitable[None]]
"""Is done with each new connection before the first charge is sent on it. Raises StoreUnavailable."""

GREETING_SECONDS: Final = 1.0
"""How long a greeting may take."""

LATE_SECONDS: Final = 5.0
"""How long a connection that was given up stays open for late replies."""

RETRY_PAUSE: Final = 0.01
"""Seconds before a command is sent again to a server that was not ready."""

_INCOMPLETE: Final = object()


class Connection(asyncio.Protocol):
    """A connection. Replies come in the order of the commands, each to its own callback, exactly once."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.open = False
        """Whether commands may be sent."""
        self.closed = False
        """Whether it has ended: late replies cannot come any more either."""
        self.room = Room.PLENTY
        """What the server has room for, as far as is known."""
        self.run_id = b""
        """By which the process of the server is known; empty if it is not."""
        self.on_message: Callable[[bytes], None] | None = None
        """Gets each message that is published on a channel that was subscribed to. None: nothing is."""
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._waiting: deque[OnReply] = deque()
        self._transport: asyncio.Transport | None = None

    def send(self, command: bytes, on_reply: OnReply) -> None:
        """Send an encoded command. The connection must be open."""
        self._waiting.append(on_reply)
        cast("asyncio.Transport", self._transport).write(command)

    async def execute(self, *words: str | bytes | int) -> object:
        """Send a command and return its reply. Raises hiredis.ReplyError, or ConnectionLost."""
        if not self.open:
            raise ConnectionLost(f"the connection to Redis at {self.address} is closed")
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        def resolve(reply: object) -> None:
            if not future.done():
                future.set_result(reply)

        self.send(pack(*words), resolve)
        reply = await future
        if isinstance(reply, Exception):
            raise reply
        return reply

    def close(self, reason: str) -> None:
        """Close at once. Commands that wait for their replies get a ConnectionLost with REASON as its message."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()
        self._fail(reason)

    def give_up(self, reason: str, *, conclusive: bool = True) -> None:
        """Send no more commands. Those that wait for their replies get a ConnectionLost with REASON as its message now.

        Stays open for late replies that somebody wants, until the last has come or LATE_SECONDS have passed.
        """
        self.open = False
        waiting, self._waiting = self._waiting, deque()
        errors = [ConnectionLost(reason, conclusive=conclusive) for _ in waiting]
        for on_reply, error in zip(waiting, errors, strict=True):
            on_reply(error)
        self._waiting.extend([error.late or _ignore for error in errors])
        if any(error.late for error in errors):
            asyncio.get_running_loop().call_later(LATE_SECONDS, self.close, reason)
        else:
            self.close(reason)

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
                if self.on_message is not None and isinstance(reply, list) and reply[:1] == [b"message"]:
                    self.on_message(reply[2])
                    continue
                if not self._waiting:
                    self.close(f"Redis at {self.address} sent an unexpected message")
                    return
                self._waiting.popleft()(reply)
                if not self.open and not self._waiting:
                    self.close("the last late reply came")
                    return
        except hiredis.ProtocolError as error:
            self.close(f"Redis at {self.address} violated the Redis protocol: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self.open = False
        self._fail(f"the connection to Redis at {self.address} was lost{f': {exc}' if exc else ''}")

    def _fail(self, reason: str) -> None:
        self.closed = True
        while self._waiting:
            error = ConnectionLost(reason)
            self._waiting.popleft()(error)
            if error.late:
                error.late(error)


def _ignore(_reply: object) -> None:
    """Take a late reply that nobody wants."""


def pack(*words: str | bytes | int) -> bytes:
    """Encode a command."""
    return cast("bytes", hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub knows tuples of one word only


async def open_connection(address: Address, login: Login) -> Connection:
    """Connect and authenticate. Raises StoreUnavailable; nothing else has been sent then. Has no time limit."""
    loop = asyncio.get_running_loop()
    try:
        if address.path:
            _, connection = await loop.create_unix_connection(lambda: Connection(address), address.path)
        else:
            _, connection = await loop.create_connection(
                lambda: Connection(address), address.host, address.port, ssl=login.tls
            )
    except OSError as error:  # ssl.SSLError is one too
        raise StoreUnavailable(f"cannot connect to Redis at {address}: {error.strerror or error}") from error
    try:
        if login.password:
            await connection.execute("AUTH", *([login.username] if login.username else []), login.password)
        if login.database:
            await connection.execute("SELECT", login.database)
    except hiredis.ReplyError as error:
        connection.close("authentication failed")
        raise StoreUnavailable(f"Redis at {address} rejected the credentials or the database: {error}") from error
    except BaseException:
        connection.close("authentication was cancelled")
        raise
    return connection


async def no_greeting(_connection: Connection) -> None:
    """Do nothing."""


async def greet(connection: Connection, greeting: Greeting) -> Connection:
    """Do GREETING with a new connection, and return it. Closes it, and raises StoreUnavailable, if that fails."""
    try:
        async with asyncio.timeout(GREETING_SECONDS):
            await greeting(connection)
    except TimeoutError:
        connection.close("silent")
        raise StoreUnavailable(f"Redis at {connection.address} did not respond within {GREETING_SECONDS:g} s") from None
    except BaseException:
        connection.close("the greeting was cancelled, or failed")
        raise
    return connection
