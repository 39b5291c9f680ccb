"""Keeps the caches up to date: passes the changes of the feed on to them."""

import asyncio
from collections.abc import Collection
from typing import Protocol

import structlog

from ratelimit_service.decision.feed_age import FeedAge
from ratelimit_service.decision.ports import Change, ChangeFeed, Gap, StoreUnavailable

_RETRY_SECONDS = 0.5

_MEANING = {
    Gap.DROPPED: "the change feed no longer has all changes since the last that was read; everything is read again",
    Gap.OUT_OF_ORDER: "a change came with a lower number than the one before it; everything is read again",
    Gap.RESTARTED: "Postgres was restarted, or another server of it took over; everything is read again",
    Gap.WENT_BACK: "the change feed went back, as after a restore from a backup; everything is read again",
}

_log = structlog.get_logger(__name__)


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
        self.age = FeedAge()
        self.gaps = dict.fromkeys(Gap, 0)
        """How often changes may have been missed so far, so that everything was read again, by the cause."""

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
        found = await self._feed.wait(self._position)
        if found.gap is not None:
            _log.warning(_MEANING[found.gap], position=self._position)
            self.gaps[found.gap] += 1
            self._position = None
            return
        if found.changes:
            for cache in self._caches:
                await cache.apply(found.changes)
        self._position = found.position
        if found.beat is not None:
            self.age.caught_up(found.beat)
