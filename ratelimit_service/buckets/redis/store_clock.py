"""The clock of Redis, by which buckets are refilled and usage is counted, beside that of this machine."""

from collections.abc import Sequence
from time import time
from typing import Final

from ratelimit_service.buckets.redis.batcher import Route
from ratelimit_service.buckets.redis.command import Closable, execute
from ratelimit_service.buckets.redis.connection import Address
from ratelimit_service.decision.ports import StoreUnavailable

TIMEOUT: Final = 1.0
"""Seconds that one answer gets, connecting included."""

_MICRO: Final = 1_000_000
_FAILURE: Final = "the clock of Redis could not be read"


class RedisClock:
    """The clocks of the servers that `routes` lead to.

    Has connections of its own, `connections`, which are opened when it is read first: a decision never waits for it in
    a queue, nor it for decisions, whose time would be taken for an offset. Belongs to the running loop; close it.
    """

    def __init__(self, routes: Sequence[Route], connections: Closable) -> None:
        self._routes = routes
        self._connections = connections

    async def offset(self) -> float:
        """Seconds by which a server's clock is ahead of this machine's, of the one that differs most.

        It is exact to half the time of an answer. Raises StoreUnavailable if a server does not answer in TIMEOUT.
        """
        offsets: dict[Address, float] = {}
        for route in self._routes:
            connection = route.connection()
            if connection is None or connection.address not in offsets:
                address, offset = await _read(route)
                offsets[address] = offset
        return max(offsets.values(), key=abs)

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()


async def _read(route: Route) -> tuple[Address, float]:
    if route.connection() is None:  # else the time to connect would count as that of an answer
        await execute(route, "PING", seconds=TIMEOUT, failure=_FAILURE)
    sent = time()
    reply, connection = await execute(route, "TIME", seconds=TIMEOUT, failure=_FAILURE)
    answered = time()
    match reply:
        case [bytes(seconds), bytes(micros)]:
            return connection.address, int(seconds) + int(micros) / _MICRO - (sent + answered) / 2
    raise StoreUnavailable(f"{_FAILURE}: the reply to TIME is no time")
