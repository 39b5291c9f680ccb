"""What is done to the archive from time to time: partitions, and the end of what is too old."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import structlog

from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.errors import Unavailable
from ratelimit_service.usage.ports import Term, UsageArchive

TIDY_SECONDS: Final = 3_600.0
"""Between two rounds."""

RETRY_SECONDS: Final = 60.0
"""Before a round that failed is repeated."""

Prune: TypeAlias = Callable[[], Awaitable[object]]
"""Deletes what else is too old. May run in several processes at once."""

_log = structlog.stdlib.get_logger(__name__)


class ArchiveRetention:
    """Keeps the archive within its retention, once an hour."""

    def __init__(self, archive: UsageArchive, prunes: Sequence[Prune] = (), *, seconds: float = TIDY_SECONDS) -> None:
        """`prunes` run in each round, after the archive. `seconds` is the time between two rounds."""
        self._archive = archive
        self._prunes = prunes
        self._seconds = seconds

    async def run(self, term: Term) -> None:
        """Do so until cancelled. Raises LeaseLost once another process leads."""
        while True:
            try:
                await self._archive.tidy(term)
                for prune in self._prunes:
                    await prune()
            except (StoreUnavailable, Unavailable) as error:
                _log.warning("what is too old could not be deleted; trying again", error=str(error))
                await asyncio.sleep(min(RETRY_SECONDS, self._seconds))
            else:
                await asyncio.sleep(self._seconds)
