"""What is held of pools, for all servers (`lua/shares.lua`)."""

from collections.abc import Collection, Sequence
from struct import Struct
from typing import Any, Final, cast

from ratelimit_service.buckets.closing import Closing
from ratelimit_service.buckets.redis.batcher import Route
from ratelimit_service.buckets.redis.command import Closable, run_script
from ratelimit_service.buckets.redis.script import (
    Script,
    partition_tag,
    pool_key,
    share_script,
)
from ratelimit_service.decision.assignments.shares import Announced, Position, Share, Visit, Visited

_TIMEOUT: Final = 2.0
_ANNOUNCEMENTS: Final = partition_tag(0) + b":a:"
_PART: Final = 5  # numbers of a visit, and of each of its bids
_pack: Final = Struct(">" + "Bq" * _PART).pack  # as MessagePack, in one go: most are not small enough for less
_INT64: Final = 0xD3


class RedisShareStore(Closing):
    """Visits pools on connections of its own, so that no decision waits behind a visit.

    `routes` are those of the partitions. `timeout` in seconds bounds each call. Closes `connections`. Belongs to the
    running loop. CLOCK is for tests that control the time, as for `script.charge_scripts`.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        connections: Closable,
        timeout: float = _TIMEOUT,
        *,
        clock: str | None = None,
    ) -> None:
        self._routes = routes
        self._connections = connections
        self._timeout = timeout
        self._shares, self._announce, self._announced = (
            share_script(name, clock=clock) for name in ("shares", "announce", "announced")
        )

    async def visit(self, visits: Sequence[Visit]) -> Sequence[Visited]:
        """Make these visits, those of one server in one run. Raises StoreUnavailable."""
        by_route: dict[Route, list[int]] = {}
        for index, each in enumerate(visits):
            by_route.setdefault(self._routes[each.partition], []).append(index)
        visited: list[Visited | None] = [None] * len(visits)
        for route, indexes in by_route.items():
            own = [visits[index] for index in indexes]
            keys = [pool_key(each.partition, each.name) for each in own]
            reply = await self._run(route, self._shares, keys, *_encode(own))
            for index, result in zip(indexes, _decode(own, cast("list[int]", reply)), strict=True):
                visited[index] = result
        return cast("list[Visited]", visited)

    async def announce(self, names: Collection[bytes]) -> None:
        """Announce pools to all servers. Raises StoreUnavailable."""
        await self._run(self._routes[0], self._announce, [_ANNOUNCEMENTS], *names)

    async def announced(self, position: Position) -> Announced:
        """What was announced after POSITION. Raises StoreUnavailable."""
        reply = await self._run(self._routes[0], self._announced, [_ANNOUNCEMENTS], position.second, position.read)
        second, read, *names = cast("list[Any]", reply)
        return Announced(names, Position(second, read))

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()

    async def _run(self, route: Route, script: Script, keys: Sequence[bytes], *arguments: bytes | int) -> object:
        failure = "what is assigned could not be shared"
        return await run_script(route, script, keys, *arguments, seconds=self._timeout, failure=failure)


def _encode(visits: Sequence[Visit]) -> tuple[bytes, bytes]:
    parts: list[bytes] = []
    names: list[bytes] = []
    i = _INT64
    for _, _, units, burst, least, bids, keep in visits:
        parts.append(_pack(i, units, i, burst, i, least, i, keep, i, len(bids)))
        for holder, kind, demand, own_units, own_burst, renew_us in bids:
            parts.append(_pack(i, kind, i, demand, i, own_units, i, own_burst, i, renew_us))
            names.append(holder)
    return b"\xdd%b%b" % ((_PART * len(parts)).to_bytes(4), b"".join(parts)), b"".join(names)


def _decode(visits: Sequence[Visit], reply: Sequence[int]) -> list[Visited]:
    """Decode the script's reply. Raises ValueError when it is not a reply to these visits."""
    found = []
    at = 0
    for each in visits:
        end = at + 2 + 4 * len(each.bids)
        shares = [Share(reply[i], reply[i + 1], reply[i + 2], reply[i + 3] == 1) for i in range(at + 2, end, 4)]
        found.append(Visited(reply[at], reply[at + 1] == 1, shares))
        at = end
    if at != len(reply):
        raise ValueError(f"{len(reply)} numbers instead of {at}")
    return found
