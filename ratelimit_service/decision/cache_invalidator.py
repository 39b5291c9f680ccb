"""Keeps the caches up to date: passes the changes of the feed on to them."""

import asyncio
from collections.abc import Collection
from typing import Protocol

from ratelimit_service.decision.ports import Change, ChangeFeed, StoreUnavailable

_RETRY_SECONDS = 0.5


class InvalidatedCache(Protocol):
    """A cache that has to be kept up to date."""

    async def refresh_all(self) -> None:
        """Read every entry again. Raises StoreUnavailable."""
        ...

    async def apply(self, changes: Collection[Change]) -> None:
        """Read the entries that these changes affect again. Idempotent. Raises StoreUnavailable."""
        ...


class CacheInvalidator:
    """Follows one feed for all `caches`, in their order."""

    def __init__(self, feed: ChangeFeed, *caches: InvalidatedCache) -> None:
        self._feed = feed
        self._caches = caches
        self._position: int | None = None
        self.current = False
        """Whether the change feed could be read at the last attempt."""

    async def run(self) -> None:
        """Follow the feed until cancelled. Changes that not every cache could apply are passed on again."""
        while True:
            try:
                await self._advance()
            except StoreUnavailable:
                self.current = False
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self.current = True

    async def _advance(self) -> None:
        if self._position is None:
            position = await self._feed.position()
            for cache in self._caches:
                await cache.refresh_all()
            self._position = position
        position, changes, complete = await self._feed.wait(self._position)
        if not complete:  # it was away for so long that the feed has dropped changes: begin again
            self._position = None
            return
        if changes:
            for cache in self._caches:
                await cache.apply(changes)
        self._position = position
