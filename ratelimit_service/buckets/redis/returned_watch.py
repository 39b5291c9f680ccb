"""Listens to what scripts return to buckets, on whichever server calls it and by whichever worker (docs/adr/0041)."""

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol

import hiredis
import structlog

from ratelimit_service.buckets.closing import Closing
from ratelimit_service.buckets.redis.batcher import Route
from ratelimit_service.buckets.redis.command import Closable
from ratelimit_service.buckets.redis.connection import Connection
from ratelimit_service.decision.ports import StoreUnavailable

CHANNEL: Final = "ratelimit:returned"
"""On which the scripts publish the names of buckets, joined by blanks."""

INTERVAL: Final = 1.0
"""Seconds between two signs of life that the server is asked for."""

_TIMEOUT: Final = 1.0
_PAUSE: Final = 0.1

_log = structlog.stdlib.get_logger(__name__)


class Listener(Protocol):
    """What wants to know to which buckets something was returned."""

    def listen(self) -> None:
        """From now on it hears of that."""
        ...

    def deafen(self) -> None:
        """From now on it does not hear of that, and perhaps has not for some seconds."""
        ...

    def forget(self, names: Iterable[str], /) -> None:
        """Something was returned to the buckets of these names."""
        ...


class ReturnedWatch(Closing):
    """Reports to LISTENER to which buckets something is returned, as long as it hears that, on a connection of its own.

    On a cluster it listens to one node, which the others pass everything on to. Closes `connections`. Belongs to the
    running loop.
    """

    def __init__(self, route: Route, connections: Closable, listener: Listener) -> None:
        self._route = route
        self._connections = connections
        self._listener = listener
        self._warned = False

    async def close(self) -> None:
        """Close the connection."""
        await self._connections.close()

    async def run(self) -> None:
        """Listen until cancelled, again whenever the connection was lost."""
        while True:
            try:
                await self._listen()
            except (StoreUnavailable, TimeoutError, hiredis.ReplyError) as error:
                self._listener.deafen()
                self._warn(error)
            await asyncio.sleep(_PAUSE)

    async def _listen(self) -> None:
        """Listen until the connection is lost, and raise why."""
        async with asyncio.timeout(_TIMEOUT):
            connection = self._route.connection() or await self._route.recover("")
            connection.on_message = self._hear
            await connection.execute("SUBSCRIBE", CHANNEL)
        self._listener.listen()
        self._warned = False
        try:
            await _stay(connection)
        finally:
            connection.close("no longer listened to")

    def _hear(self, names: bytes) -> None:
        self._listener.forget(names.decode("ascii", "replace").split(" "))

    def _warn(self, error: Exception) -> None:
        if isinstance(error, hiredis.ReplyError) and not self._warned:
            self._warned = True
            _log.warning(
                "denials are not remembered, because Redis refuses to say what is returned to limits; "
                "`ratelimit-service migrate --print-grants` has the rights that its user needs",
                error=str(error),
            )


async def _stay(connection: Connection) -> None:
    """Return never. Raises StoreUnavailable and TimeoutError once the server does not answer any more."""
    while True:
        await asyncio.sleep(INTERVAL)
        async with asyncio.timeout(_TIMEOUT):
            await connection.execute("PING")
