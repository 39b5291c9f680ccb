"""The quotas of the store, to be raised by who knows of them from elsewhere (docs/adr/0025)."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ratelimit_service.buckets.redis.batcher import Route
from ratelimit_service.buckets.redis.command import Closable, Word, execute, run_script
from ratelimit_service.buckets.redis.marker import find_marker
from ratelimit_service.buckets.redis.raising import MAX_RAISES, QuotaLevel, arguments_of, raise_script, results_of
from ratelimit_service.buckets.redis.script import ONE_TAG, bucket_key, kind_of, partition_tag
from ratelimit_service.decision.charge import Bucket
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.usage.quota_raise import UsedQuota

TIMEOUT: Final = 2.0
"""Seconds that one command gets, connecting included."""

PAUSE_SECONDS: Final = 0.005
"""Between two runs of the script: decisions come first."""

_PARALLEL: Final = 16
"""Tags that are asked at the same time."""

_FAILURE: Final = "quotas could not be raised"


class RedisQuotaStore:
    """The quotas of the tags that `routes` lead to, as `usage.quota_raise.QuotaStore` describes them.

    Has connections of its own, `connections`. Belongs to the running loop; close it.
    """

    def __init__(self, routes: Mapping[bytes, Route], connections: Closable) -> None:
        self._routes = routes
        self._connections = connections
        self._script = raise_script()

    async def markers(self) -> Mapping[str, str]:
        """The marker of each tag, set where there was none.

        Tags that cannot be reached are left out. Raises StoreUnavailable when that is all of them.
        """
        gate = asyncio.Semaphore(_PARALLEL)

        async def read(tag: bytes) -> str:
            async with gate:
                return await self._marker(tag)

        found = await asyncio.gather(*map(read, self._routes), return_exceptions=True)
        errors = [each for each in found if isinstance(each, BaseException)]
        if len(errors) == len(found) or any(not isinstance(error, StoreUnavailable) for error in errors):
            raise errors[0]
        return {tag.decode(): each for tag, each in zip(self._routes, found, strict=True) if isinstance(each, str)}

    def tag_of(self, bucket: Bucket) -> str:
        """The tag of the keys that are where this bucket is."""
        return (ONE_TAG if ONE_TAG in self._routes else partition_tag(bucket.partition)).decode()

    async def raise_quotas(self, quotas: Sequence[UsedQuota]) -> Mapping[str, int]:
        """Raise quotas. Returns how many ended how. Raises StoreUnavailable: then they may be raised again."""
        counts: dict[str, int] = {}
        for tag, levels in self._parts(quotas):
            keys, batch = arguments_of(levels)
            route = self._routes[tag]
            reply = await run_script(route, self._script, keys, batch, seconds=TIMEOUT, failure=_FAILURE)
            for result, number in results_of(reply, len(levels)).items():
                counts[result.value] = counts.get(result.value, 0) + number
            await asyncio.sleep(PAUSE_SECONDS)
        return counts

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()

    def _parts(self, quotas: Sequence[UsedQuota]) -> Iterator[tuple[bytes, list[QuotaLevel]]]:
        by_tag: dict[bytes, list[QuotaLevel]] = {}
        for bucket, quota, start_us, used in quotas:
            level = QuotaLevel(bucket_key(bucket), kind_of(quota), start_us, used)
            by_tag.setdefault(self.tag_of(bucket).encode(), []).append(level)
        for tag, levels in by_tag.items():
            for start in range(0, len(levels), MAX_RAISES):
                yield tag, levels[start : start + MAX_RAISES]

    async def _marker(self, tag: bytes) -> str:
        async def send(*words: Word) -> object:
            reply, _ = await execute(self._routes[tag], *words, seconds=TIMEOUT, failure=_FAILURE)
            return reply

        return (await find_marker(tag, send)).decode("utf-8", "replace")
