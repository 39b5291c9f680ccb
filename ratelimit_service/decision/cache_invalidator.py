"""Keeps the caches up to date: passes the changes of the feed on to them."""

import asyncio
from collections.abc import Collection
from typing import Protocol

from ratelimit_service.decision.ports import Change, ChangeFeed, ChangeKind, StoreUnavailable

_RETRY_SECONDS = 0.5

_PAUSE_SECONDS = 0.25
"""Between two passes over all that is cached, for the changes that came meanwhile together."""

_WIDE = frozenset({ChangeKind.SUBJECT, ChangeKind.PLAN})
"""Changes that may affect any number of entries."""


class InvalidatedCache(Protocol):
    """A cache that has to be kept up to date."""

    async def refresh_all(self) -> None:
        """Read every entry again. Raises StoreUnavailable."""
        ...

    async def apply(self, changes: Collection[Change]) -> None:
        """Read the entries that these changes affect again. Idempotent. Raises StoreUnavailable."""
        ...


class CacheInvalidator:
    """Follows one feed for all `caches`, in their order.

    Changes of subjects and plans, each of which may take a minute to apply, are applied beside it: a key that is
    revoked meanwhile waits for none of them.
    """

    def __init__(self, feed: ChangeFeed, *caches: InvalidatedCache) -> None:
        self._feed = feed
        self._caches = caches
        self._position: int | None = None
        self._wide: set[Change] = set()
        self._has_wide = asyncio.Event()
        self.current = False
        """Whether the change feed could be read at the last attempt."""

    async def run(self) -> None:
        """Follow the feed until cancelled. Changes that not every cache could apply are passed on again."""
        await asyncio.gather(self._follow(), self._apply_wide())

    async def _follow(self) -> None:
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
        wide = {change for change in changes if change.kind in _WIDE}
        if wide:
            self._wide |= wide
            self._has_wide.set()
        if len(wide) < len(changes):
            for cache in self._caches:
                await cache.apply([change for change in changes if change.kind not in _WIDE])
        self._position = position

    async def _apply_wide(self) -> None:
        while True:
            await self._has_wide.wait()
            self._has_wide.clear()
            changes, self._wide = self._wide, set()
            try:
                for cache in self._caches:
                    await cache.apply(changes)
            except StoreUnavailable:
                self._wide |= changes
                self._has_wide.set()
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                await asyncio.sleep(_PAUSE_SECONDS)
