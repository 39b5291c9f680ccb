"""Asks Redis servers, all the time, how much of their memory they use (docs/adr/0018)."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import hiredis
import structlog

from ratelimit_service.buckets.redis.connection import Connection, ConnectionLost
from ratelimit_service.buckets.redis.room import Room, eviction_of, room_of, share_of
from ratelimit_service.buckets.redis.watch import Watch

INTERVAL: Final = 1.0
"""Seconds between two questions to a server."""

SHORT_INTERVAL: Final = 0.2
"""The same once more than SHORT_FROM is used: 10 MB can be filled in a second."""

SHORT_FROM: Final = 0.6

LOG_SECONDS: Final = 10.0
"""Between two lines in the log: callers may make the share rise and fall."""

_TIMEOUT: Final = 5.0

_log = structlog.stdlib.get_logger(__name__)


class Connections(Protocol):
    """What has the connections to the servers."""

    def connections(self) -> Sequence[Connection]:
        """Those that are open now."""
        ...


class RoomWatch(Watch):
    """Asks each connected server about its memory, and notes on its connection what it has room for.

    `bound` as for `share_of`. `report` gets the largest share of all servers after each round, and the policy by which
    one evicts keys, empty if none does: limits begin anew whenever a bucket is evicted. A server that does not
    say, since INFO is not among the rights of its user, counts as one with PLENTY, but for a round after it has
    refused a script for want of memory.
    """

    def __init__(self, connections: Connections, bound: int, report: Callable[[float, str], None]) -> None:
        self._connections = connections
        self._bound = bound
        self._report = report
        self._warned = False
        self._eviction = ""
        self._logged_at = -LOG_SECONDS

    async def _run(self) -> None:
        while True:
            answers = await asyncio.gather(*map(self._query, self._connections.connections()))
            share = max((share for share, _ in answers), default=0.0)
            if answers:  # else what was seen last is what is known
                self._note_eviction(max(policy for _, policy in answers))
            self._report(share, self._eviction)
            await asyncio.sleep(SHORT_INTERVAL if share >= SHORT_FROM else INTERVAL)

    def _note_eviction(self, policy: str) -> None:
        if policy and policy != self._eviction:
            _log.warning(
                "Redis evicts keys when its memory is full: limits of evicted buckets begin anew; set noeviction",
                policy=policy,
            )
        self._eviction = policy

    async def _query(self, connection: Connection) -> tuple[float, str]:
        try:
            async with asyncio.timeout(_TIMEOUT):
                info = await connection.execute("INFO", "memory")
        except (ConnectionLost, TimeoutError):
            return 0.0, self._eviction
        except hiredis.ReplyError as error:
            if not self._warned:
                self._warned = True
                _log.warning("Redis does not say how much memory it uses; allow its user INFO", error=str(error))
            connection.room = Room.PLENTY
            return 0.0, self._eviction
        text = info if isinstance(info, bytes) else b""
        share, room = share_of(text, self._bound), room_of(text, self._bound)
        now = asyncio.get_running_loop().time()
        if room is not connection.room and now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            log = _log.warning if room > connection.room else _log.info
            log("the memory of Redis is used", share=round(share, 3), room=room.name, address=str(connection.address))
        connection.room = room
        return share, eviction_of(text)
