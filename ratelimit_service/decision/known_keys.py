"""The ids of all keys, compactly: to distinguish one that was not used lately from one that somebody made up."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from time import monotonic
from typing import Final, Protocol, TypeVar

from ratelimit_service.decision.known_ids import KnownIds
from ratelimit_service.module_log import ModuleLog

_PAGE: Final = 5_000
_SLICE: Final = 100
"""Ids that are added without letting calls go first: some 0.5 ms."""

LIST_AFTER_SECONDS: Final = 30.0
"""After the start, in a process that never says that it serves."""

_RETRY_SECONDS: Final = 1.0

LATE_SECONDS: Final = 30.0
"""After which keys that have never been listed count as what is wrong: ten million take about as long."""

_LOG_SECONDS: Final = 10.0

_log = ModuleLog(__name__)

T = TypeVar("T")


class KeyIdSource(Protocol):
    """Lists the ids of keys. Nobody waits for it, and it delays no other read."""

    async def expected_keys(self) -> int:
        """About how many keys there are, revoked ones included, without counting them. Raises StoreUnavailable."""
        ...

    async def key_ids(self, after: str, count: int) -> Sequence[str]:
        """The first COUNT ids after AFTER, in their order. Raises StoreUnavailable."""
        ...


class KnownKeys:
    """The ids that keys have. It grants nothing: it only decides whose policy is read first.

    Listed in the background by `load`; a key that was created since is added by `add`, as soon as the change feed
    reports it. Keys are never deleted. Some ids that no key has are in it too: see `KnownIds`.
    """

    def __init__(self, source: KeyIdSource, now: Callable[[], float] = monotonic) -> None:
        """NOW returns monotonic seconds."""
        self._source = source
        self._now = now
        self._ids = KnownIds(0)
        self._next: KnownIds | None = None  # being filled
        self._loading: asyncio.Task[None] | None = None
        self._unlisted_since: float | None = None  # None once all were listed, and before that is attempted
        self._is_listed = False
        self._wanted = asyncio.Event()
        self._logged_at = -inf

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._ids

    @property
    def reason(self) -> str:
        """What is the case while keys have not been listed for long, in words for an operator; else empty."""
        since = self._unlisted_since
        if since is None or self._now() - since < LATE_SECONDS:
            return ""
        return (
            f"the ids of all keys could not be listed for {self._now() - since:.0f} s, and keys not in memory wait "
            "with those that somebody makes up; the log says why"
        )

    def add(self, key_ids: Collection[str]) -> None:
        """Add the ids of keys that exist."""
        self._ids.add([key_id for key_id in key_ids if key_id not in self._ids])
        if self._next is not None:
            self._next.add(key_ids)
        elif self._ids.is_full and (self._loading is None or self._loading.done()):
            self.load()

    def load(self) -> None:
        """List all keys again, because some may have been missed. What is listed meanwhile stays.

        For the first time that begins once somebody wants it (`hurry`), or LIST_AFTER_SECONDS later, so that it takes
        nothing from the start.
        """
        if self._loading is not None:
            self._loading.cancel()
        self._loading = asyncio.create_task(self._load())

    def hurry(self) -> None:
        """List the keys now, if that was not begun: the server serves, or a call came for one that is not in memory."""
        self._wanted.set()

    async def close(self) -> None:
        """Stop listing."""
        if self._loading is not None:
            self._loading.cancel()
            with suppress(asyncio.CancelledError):
                await self._loading

    async def _load(self) -> None:
        """List all keys: once more, with room for them, if there are many more than was expected."""
        if not self._is_listed and self._unlisted_since is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(LIST_AFTER_SECONDS):
                    await self._wanted.wait()
            self._unlisted_since = self._now()
        expected = await self._retried(self._source.expected_keys)
        while (ids := await self._listed(expected)).is_full:
            expected = len(ids)
        self._ids = ids
        self._is_listed, self._unlisted_since = True, None

    async def _listed(self, expected: int) -> KnownIds:
        """All ids. What was listed before a failure need not be listed again."""
        ids = KnownIds(expected)
        self._next = ids  # also gets what is added meanwhile
        try:
            after = ""
            while page := await self._retried(partial(self._source.key_ids, after, _PAGE)):
                for start in range(0, len(page), _SLICE):
                    ids.add(page[start : start + _SLICE])
                    await asyncio.sleep(0)
                after = page[-1]
        finally:
            if self._next is ids:
                self._next = None
        return ids

    async def _retried(self, read: Callable[[], Awaitable[T]]) -> T:
        """What READ returns, once it succeeds."""
        while True:
            try:
                return await read()
            except Exception as error:  # noqa: BLE001 nobody waits for the list, so that no error of it may end it
                if self._now() - self._logged_at >= _LOG_SECONDS:
                    self._logged_at = self._now()
                    _log.warning("the ids of keys cannot be listed; trying again", error=str(error) or repr(error))
                await asyncio.sleep(_RETRY_SECONDS)
