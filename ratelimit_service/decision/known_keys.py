"""The ids of all keys, compactly: to distinguish one that was not used lately from one that somebody made up."""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Final, Protocol

from ratelimit_service.decision.known_ids import KnownIds
from ratelimit_service.decision.ports import StoreUnavailable

_PAGE: Final = 5_000
_SLICE: Final = 100
"""Ids that are added without letting calls go first: some 0.5 ms."""

_RETRY_SECONDS: Final = 1.0


class KeyIdSource(Protocol):
    """Lists the ids of keys."""

    async def count_keys(self) -> int:
        """How many keys there are, revoked ones included. Raises StoreUnavailable."""
        ...

    async def key_ids(self, after: str, count: int) -> Sequence[str]:
        """The first COUNT ids after AFTER, in their order. Raises StoreUnavailable."""
        ...


class KnownKeys:
    """The ids that keys have. It grants nothing: it only decides whose policy is read first.

    Listed in the background by `load`; a key that was created since is added by `add`, as soon as the change feed
    reports it. Keys are never deleted. Some ids that no key has are in it too: see `KnownIds`.
    """

    def __init__(self, source: KeyIdSource) -> None:
        self._source = source
        self._ids = KnownIds(0)
        self._next: KnownIds | None = None  # being filled
        self._loading: asyncio.Task[None] | None = None

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._ids

    def add(self, key_ids: Collection[str]) -> None:
        """Add the ids of keys that exist."""
        self._ids.add([key_id for key_id in key_ids if key_id not in self._ids])
        if self._next is not None:
            self._next.add(key_ids)
        elif self._ids.is_full:
            self.load()

    def load(self) -> None:
        """List all keys again, because some may have been missed. What is listed meanwhile stays."""
        if self._loading is not None:
            self._loading.cancel()
        self._loading = asyncio.create_task(self._load())

    async def close(self) -> None:
        """Stop listing."""
        if self._loading is not None:
            self._loading.cancel()
            with suppress(asyncio.CancelledError):
                await self._loading

    async def _load(self) -> None:
        while True:
            try:
                await self._load_once()
            except StoreUnavailable:
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return

    async def _load_once(self) -> None:
        ids = KnownIds(await self._source.count_keys())
        self._next = ids  # also gets what is added meanwhile
        try:
            after = ""
            while page := await self._source.key_ids(after, _PAGE):
                for start in range(0, len(page), _SLICE):
                    ids.add(page[start : start + _SLICE])
                    await asyncio.sleep(0)
                after = page[-1]
            self._ids = ids
        finally:
            if self._next is ids:
                self._next = None
