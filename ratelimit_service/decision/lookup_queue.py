"""The key ids that are to be read from Postgres, and the calls that wait for them."""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Final, TypeAlias

from ratelimit_service.decision.lookup_budget import LookupBudget
from ratelimit_service.decision.policy import Policy
from ratelimit_service.errors import LookupDeferred

MAX_PER_READ: Final = 500
"""Ids that one statement reads."""

MAX_DOUBTFUL: Final = 2 * MAX_PER_READ
"""Calls that wait for ids that probably no key has: as many as two statements can serve, in some 10 MiB."""

Lookup: TypeAlias = asyncio.Future[Policy | None]


class LookupQueue:
    """Ids in the order in which they are read, each with the future that its calls wait for.

    Ids that are listed as a key's are read as soon as the last read has ended, however many others there are. Any other
    id is doubtful: it is read too, since a key may be so new that it is not listed yet, but within BUDGET. So ids that
    somebody makes up delay one another, and nothing else.
    """

    def __init__(self, budget: LookupBudget) -> None:
        self._budget = budget
        self._listed: dict[str, Lookup] = {}
        self._doubtful: dict[str, Lookup] = {}
        self._waiting = 0  # calls, of doubtful ids
        self._added = asyncio.Event()

    def __len__(self) -> int:
        return len(self._listed) + len(self._doubtful)

    def get(self, key_id: str) -> Lookup | None:
        """The future of an id that is queued."""
        return self._listed.get(key_id) or self._doubtful.get(key_id)

    def put(self, key_id: str, lookup: Lookup, *, doubtful: bool) -> None:
        """Queue an id."""
        if doubtful:
            self._doubtful[key_id] = lookup
        else:
            self._listed[key_id] = lookup
            self._added.set()

    def promote(self, key_ids: Collection[str]) -> None:
        """Treat these ids, of which some may be queued, as listed: each is now known to be a key's."""
        for key_id in key_ids:
            lookup = self._doubtful.pop(key_id, None)
            if lookup is not None:
                self.put(key_id, lookup, doubtful=False)

    @contextmanager
    def waiting(self, key_id: str, seconds: float) -> Iterator[None]:
        """Count one call that waits for a doubtful id for so many SECONDS.

        Raises LookupDeferred if that is too short for its turn to come, or too many are waiting.
        """
        queued = len(self._doubtful)  # those of calls that have given up included
        full = self._waiting >= MAX_DOUBTFUL or (queued >= MAX_DOUBTFUL and key_id not in self._doubtful)
        if full or self._budget.wait(1 + queued // MAX_PER_READ) > seconds:
            raise deferred()
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def take(self) -> dict[str, Lookup]:
        """Remove and return what to read next, once it may be read: 1 to 500 ids. Something must be queued."""
        while not self._listed:
            wait = self._budget.wait()
            if wait == 0:
                return _take(self._doubtful)
            self._added.clear()
            await _wait(self._added, wait)
        return _take(self._listed)

    def drain(self) -> list[Lookup]:
        """Remove everything."""
        lookups = [*self._listed.values(), *self._doubtful.values()]
        self._listed.clear()
        self._doubtful.clear()
        return lookups


def deferred() -> LookupDeferred:
    """The error of a call for an id that could not be read in time."""
    return LookupDeferred(
        "the key could not be looked up in time, because too many unknown ones are waiting; try again"
    )


def _take(lookups: dict[str, Lookup]) -> dict[str, Lookup]:
    return {key_id: lookups.pop(key_id) for key_id in list(islice(lookups, MAX_PER_READ))}


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
