"""Adds the counts that workers keep to those of the charge script (`lua/count.lua`)."""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import hiredis

from ratelimit_service.buckets.closing import Closing
from ratelimit_service.buckets.redis.batcher import Route
from ratelimit_service.buckets.redis.connection import ConnectionLost
from ratelimit_service.buckets.redis.script import pack_array, pack_number, pack_text, usage_key, usage_script
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.decision.usage_tally import UsageRow

_KNOWN_MS: Final = 86_400_000
"""For how long the store knows that it has added a batch."""

_TIMEOUT: Final = 2.0


class Closable(Protocol):
    """What has the connections."""

    async def close(self) -> None:
        """Close them."""
        ...


class TaggedRoute(NamedTuple):
    """A tag of keys of usage, and the route to the server that has them."""

    tag: bytes
    route: Route


class RedisUsageWriter(Closing):
    """Adds batches to the open segments, on connections of its own, so that no decision waits behind a batch.

    A batch goes to one of the `routes`, which its id chooses, so on a cluster they spread over the nodes.
    `usage_bytes`: what counts may take, for each tag. `timeout` in seconds bounds each call. Closes `connections`.
    Belongs to the running loop.
    """

    def __init__(
        self, routes: Sequence[TaggedRoute], connections: Closable, usage_bytes: int, timeout: float = _TIMEOUT
    ) -> None:
        self._routes = routes
        self._connections = connections
        self._usage_bytes = usage_bytes
        self._timeout = timeout
        self._script = usage_script("count")

    async def add(self, batch_id: str, rows: Sequence[UsageRow]) -> None:
        """Add the rows, unless the batch with this id, a hexadecimal number, was added in the last 24 hours.

        Raises StoreUnavailable; perhaps they were added all the same, so send them again under the same id.
        """
        tag, route = self._routes[int(batch_id, 16) % len(self._routes)]
        keys = usage_key(tag), tag + b":u:b:" + batch_id.encode()
        arguments = (self._usage_bytes, _encode(rows), _KNOWN_MS)
        command: tuple[bytes | int, ...] = (b"EVALSHA", self._script.sha, len(keys), *keys, *arguments)
        cause = "no connection could be made"
        try:
            async with asyncio.timeout(self._timeout):
                connection = route.connection() or await route.recover("")
                while True:
                    try:
                        await connection.execute(*command)
                    except hiredis.ReplyError as error:
                        cause = str(error)
                        if cause.startswith("NOSCRIPT"):
                            command = (b"EVAL", self._script.text, len(keys), *keys, *arguments)
                        else:
                            connection = await route.recover(cause)
                    except ConnectionLost as error:
                        cause = str(error)
                        connection = await route.recover("")
                    else:
                        return
        except TimeoutError:
            raise StoreUnavailable(f"usage could not be added within {self._timeout:g} s: {cause}") from None

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()


def _encode(rows: Sequence[UsageRow]) -> bytes:
    elements: list[bytes] = []
    for minute, field, counts in rows:
        elements += (pack_number(minute), pack_text(field), pack_number(len(counts)), *map(pack_number, counts))
    return pack_array(elements)
