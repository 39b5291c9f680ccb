"""Adds the counts that workers keep to those of the charge script (`lua/count.lua`)."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from ratelimit_service.buckets.closing import Closing
from ratelimit_service.buckets.redis.batcher import Route
from ratelimit_service.buckets.redis.command import Closable, run_script
from ratelimit_service.buckets.redis.script import pack_array, pack_number, usage_key, usage_script
from ratelimit_service.decision.usage import pack_text
from ratelimit_service.decision.usage_tally import UsageRow

_KNOWN_MS: Final = 86_400_000
"""For how long the store knows that it has added a batch."""

_TIMEOUT: Final = 2.0


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
        failure = "usage could not be added"
        await run_script(route, self._script, keys, *arguments, seconds=self._timeout, failure=failure)

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()


def _encode(rows: Sequence[UsageRow]) -> bytes:
    elements: list[bytes] = []
    for minute, field, counts in rows:
        elements += (pack_number(minute), pack_text(field), pack_number(len(counts)), *map(pack_number, counts))
    return pack_array(elements)
