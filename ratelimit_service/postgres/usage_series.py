"""The numbers of series: what a count is of is written once, and counts refer to it."""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Final

from psycopg import AsyncCursor

from ratelimit_service.usage.segment import Series

MAX_CACHED: Final = 200_000
"""Series whose numbers are kept in memory: about 100 MB at most."""

CHUNK: Final = 20_000
"""Series of one statement, a few megabytes."""

_FIND: Final = "SELECT digest, series_id FROM usage_series WHERE digest = ANY(%s)"
_INSERT: Final = (
    "INSERT INTO usage_series (digest, kind, key_id, resource, subject, plan, domain, rule)"
    " SELECT * FROM unnest(%s::bytea[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],"
    " %s::text[]) ON CONFLICT (digest) DO NOTHING RETURNING digest, series_id"
)


class SeriesNumbers:
    """Finds the numbers of series, and creates those that are new."""

    def __init__(self) -> None:
        self._known: dict[Series, int] = {}

    async def find(self, cursor: AsyncCursor, series: Iterable[Series]) -> dict[Series, int]:
        """Return the number of each of SERIES, those that are new created in this transaction.

        None of it is remembered before `remember`, because the transaction may not commit.
        """
        known = self._known
        found: dict[Series, int] = {}
        missing: dict[bytes, Series] = {}
        for one in series:
            number = known.get(one)
            if number is None:
                missing[digest_of(one)] = one
                if len(missing) == CHUNK:  # not all at once: the transaction must not be idle for long
                    await self._number(cursor, missing, found)
            else:
                found[one] = number
        if missing:
            await self._number(cursor, missing, found)
        return found

    async def _number(self, cursor: AsyncCursor, missing: dict[bytes, Series], found: dict[Series, int]) -> None:
        """Move MISSING to FOUND, each with its number."""
        await cursor.execute(_FIND, (list(missing),))
        self._take(await cursor.fetchall(), missing, found)
        if missing:
            digests = sorted(missing)
            columns = zip(*(missing[digest] for digest in digests), strict=True)
            await cursor.execute(_INSERT, (digests, *map(list, columns)))
            self._take(await cursor.fetchall(), missing, found)

    def remember(self, found: Mapping[Series, int]) -> None:
        """Keep these numbers in memory: they are committed."""
        if len(self._known) + len(found) > MAX_CACHED:
            self._known.clear()
        if len(found) <= MAX_CACHED:
            self._known.update(found)

    def forget(self) -> None:
        """Forget all numbers: series may have been deleted since."""
        self._known.clear()

    @staticmethod
    def _take(rows: Iterable[tuple[bytes, int]], missing: dict[bytes, Series], found: dict[Series, int]) -> None:
        for digest, number in rows:
            found[missing.pop(bytes(digest))] = number


def digest_of(series: Series) -> bytes:
    """What identifies a series, in 16 bytes: its parts may be too long for an index."""
    return blake2b("\x1f".join(series).encode("utf-8", "replace"), digest_size=16).digest()
