"""Keeps what is in memory true: passes on what the change feed says."""

import asyncio
from collections.abc import Collection
from typing import Protocol

from ratelimit_service.decision.ports import Change, ChangeFeed, StoreUnavailable

_RETRY_SECONDS = 0.5


class InvalidatedCache(Protocol):
    """Something in memory that follows the changes."""

    async def refresh_all(self) -> None:
        """Read again everything that is here. Raises StoreUnavailable."""
        ...

    async def apply(self, changes: Collection[Change]) -> None:
        """Read again what these changes touch; once more for the same ones does no harm. Raises StoreUnavailable."""
        ...


class CacheInvalidator:
    """Follows one feed for all who are `caches`, in their order."""

    def __init__(self, feed: ChangeFeed, *caches: InvalidatedCache) -> None:
        self._feed = feed
        self._caches = caches
        self._position: int | None = None
        self.current = False
        """Whether the change feed could be read at the last attempt."""

    async def run(self) -> None:
        """Follow the feed for ever. A change that could not be passed on whole is passed on again."""
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
            for one in self._caches:
                await one.refresh_all()
            self._position = position
        position, changes = await self._feed.wait(self._position)
        if changes:
            for one in self._caches:
                await one.apply(changes)
        self._position = position
