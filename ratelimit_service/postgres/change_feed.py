"""The change feed: how the decision plane learns of changes, from the outbox that `unit_of_work` writes."""

from collections.abc import Iterable, Iterator, Sequence
from time import monotonic

import psycopg

from ratelimit_service.decision.ports import Beat, Change, ChangeKind, Changes, Gap
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.failures import translate_failures
from ratelimit_service.postgres.repositories.outbox import from_row
from ratelimit_service.postgres.tables import CHANGES_CHANNEL
from ratelimit_service.postgres.unreadable_rows import UnreadableRows

_POLL_SECONDS = 0.9
"""How long to wait for a notification before the outbox is read anyway, in case a notification is lost."""

_ANSWER_SECONDS = 1.0
_MAX_PER_READ = 10_000
_MAX_NAME = 1_024  # bytes: no subject, plan or domain has a name as long
_FIRST = 1  # the number of the first change ever
_NOWHERE = (0, -1)
_MAX_GAPS = 8
_KINDS = frozenset(kind.value for kind in ChangeKind if kind is not ChangeKind.ENFORCEMENT)
_NEWEST_ROWS = 1_000
_NEWEST = """
    SELECT pg_postmaster_start_time()::text, newest.number, newest.time
    FROM (SELECT 1) AS one LEFT JOIN (
        SELECT number, time::text FROM changes WHERE number NOT BETWEEN %(ignored)s AND %(until)s
        ORDER BY number DESC LIMIT %(most)s
    ) AS newest ON true
    ORDER BY newest.number DESC
"""
# In one snapshot: a heartbeat is read together with all changes that were written before it. Times are only compared,
# as texts: whoever writes past the API may have written an infinite one.
_READ = """
    SELECT feed.started, feed.oldest, feed.seen, feed.beat, feed.lag, feed.beyond, feed.ignored,
           later.number, later.kind, later.name, later.time
    FROM (
        SELECT pg_postmaster_start_time()::text AS started,
               (SELECT min(number) FROM changes WHERE number NOT BETWEEN %(ignored)s AND %(until)s) AS oldest,
               (
                   SELECT min(gap.high) FROM unnest(%(lows)s::bigint[], %(highs)s::bigint[]) AS gap (low, high)
                   WHERE EXISTS (SELECT FROM changes WHERE number > gap.low AND number < gap.high)
               ) AS beyond,
               (SELECT min(number) FROM changes WHERE number BETWEEN %(ignored)s AND %(until)s) AS ignored,
               (SELECT time::text FROM changes WHERE number = %(after)s) AS seen,
               beat.time::text AS beat,
               extract(epoch FROM clock_timestamp() - beat.time)::float8 AS lag
        FROM (SELECT 1) AS one LEFT JOIN feed_heartbeat AS beat ON isfinite(beat.time)
    ) AS feed
    LEFT JOIN LATERAL (
        SELECT number, kind, CASE WHEN octet_length(name) <= %(longest)s THEN name END AS name, time::text FROM changes
        WHERE number > %(after)s AND number NOT BETWEEN %(ignored)s AND %(until)s ORDER BY number LIMIT %(most)s
    ) AS later ON true
    ORDER BY later.number
"""


class PostgresChangeFeed:
    """As `decision.ports.ChangeFeed` describes it, for one reader. A position is the number of a row in the outbox.

    A connection of its own listens for notifications, which only wake the reader: what has changed is read from the
    outbox, at least once a second. So neither a lost notification nor a lost connection hides a change.

    Numbers alone do not show that the database was restored from a backup, once as many changes were made since. So the
    feed recalls when the row of the reader's position was written, and checks that it is still there.

    What was read beside the feed just before Postgres was lost may be newer than the position, and lost although that
    is not. So everything may be out of date once another server responds, or the same one after a restart.

    Nor is the highest number always the newest: somebody may have written one far ahead, past the API, and all changes
    to come would be below the position. So the feed also checks the widest gaps between numbers that it has read.
    When there is a number in one, what was beyond it is ignored.

    A row that cannot be read is reported to `unreadable` and skipped: a kind that this version does not know is about
    something that it does not have, and what is known of others must not wait for it.
    """

    def __init__(self, database: Database, unreadable: UnreadableRows | None = None) -> None:
        self._unreadable = unreadable or UnreadableRows()
        self._connection = database.query_connection(f"LISTEN {CHANGES_CHANNEL}")
        self._last = (0, "")
        """Number and time of the row of the position that was returned last."""
        self._started: str | None = None
        """When the server of Postgres was started that responded to `position`; None before."""
        self._gaps: list[tuple[int, int]] = []
        """Pairs of numbers that were read, with none between them: the widest."""
        self._ignored = _NOWHERE
        """The first and the last number of rows that are not read."""

    async def position(self) -> int:
        """Return the position after the newest change so far, 0 if there is none. Raises StoreUnavailable."""
        with translate_failures():
            ignored, until = self._ignored
            parameters = {"ignored": ignored, "until": until, "most": _NEWEST_ROWS}
            rows = await self._connection.query(_ANSWER_SECONDS, _NEWEST, parameters)
            self._started = rows[0][0]
            numbered = [(number, time) for _, number, time in rows if number is not None]
            self._last = numbered[0] if numbered else (0, "")
            self._gaps = []
            numbers = [number for number, _ in reversed(numbered)]
            below = numbers[0] if len(numbers) == _NEWEST_ROWS else 0  # there may be more, which were not read
            self._note_gaps(below, numbers)
            return self._last[0]

    async def wait(self, after: int) -> Changes:
        """Return the changes since position AFTER within a second or so, perhaps none.

        Raises StoreUnavailable.
        """
        with translate_failures():
            found = await self._read_changes(after)
            if found.complete and found.position == after and await self._is_woken():
                found = await self._read_changes(after)
            return found

    async def close(self) -> None:
        """Close the connection. It is opened again when it is needed."""
        await self._connection.close()

    async def _read_changes(self, after: int) -> Changes:
        read_at = monotonic()
        first, until = self._ignored
        parameters = {
            "after": after,
            "most": _MAX_PER_READ,
            "longest": _MAX_NAME,
            "lows": [low for low, _ in self._gaps],
            "highs": [high for _, high in self._gaps],
            "ignored": first,
            "until": until,
        }
        rows = await self._connection.query(_ANSWER_SECONDS, _READ, parameters)
        started, oldest, seen, beat, lag, beyond, ignored, *_ = rows[0]
        if beyond is not None:
            self._ignore(beyond, after)
            return Changes(after, [], Gap.OUT_OF_ORDER)
        self._report_ignored(ignored)
        later = [row[7:] for row in rows if row[7] is not None]
        gap = self._gap(after, oldest, seen)
        if gap is None and self._started not in {None, started}:
            gap = Gap.RESTARTED
        newest = None if beat is None or len(later) == _MAX_PER_READ else Beat(beat, lag, read_at)
        if not later:
            return Changes(after, [], gap, newest)
        number, *_, time = later[-1]
        self._last = (number, time)
        self._note_gaps(after, [row[0] for row in later])
        return Changes(number, list(self._readable(later)), gap, newest)

    def _gap(self, after: int, oldest: int | None, seen: str | None) -> Gap | None:
        """Why changes since AFTER may be missing. SEEN is when the row of that number was written, if it is there.

        Retention deletes from the oldest on: as long as the row that the reader has seen is there, it has missed none.
        """
        if after < _FIRST:
            return Gap.DROPPED if oldest is not None and oldest > _FIRST else None
        if seen is None:
            return Gap.DROPPED if oldest is not None and oldest > after else Gap.WENT_BACK
        number, time = self._last
        return Gap.WENT_BACK if after == number and seen != time else None

    def _note_gaps(self, after: int, numbers: Sequence[int]) -> None:
        """Note the widest gaps so far, with those between AFTER and NUMBERS, in their order."""
        pairs = zip((after, *numbers), numbers, strict=False)
        gaps = self._gaps + [(low, high) for low, high in pairs if high - low > 1]
        self._gaps = sorted(gaps, key=lambda gap: gap[0] - gap[1])[:_MAX_GAPS]

    def _ignore(self, first: int, last: int) -> None:
        """Do not read the rows from FIRST to LAST, nor those that were ignored before."""
        if self._ignored != _NOWHERE:
            first, last = min(first, self._ignored[0]), max(last, self._ignored[1])
        self._ignored = (first, last)

    def _report_ignored(self, first: int | None) -> None:
        """FIRST is the first row that is there and ignored; None: there is none any more."""
        if first is not None:
            what = "its number is far ahead of changes that were made after it; delete it, since it is ignored"
            self._unreadable.report("changes", f"number {first}", what)
        elif self._ignored != _NOWHERE:
            self._ignored = _NOWHERE

    def _readable(self, rows: Iterable[tuple[int, object, object, str]]) -> Iterator[Change]:
        for number, kind, name, _ in rows:
            if kind not in _KINDS or not isinstance(name, str):
                shown = "too long" if name is None else repr(name)
                what = f"its kind is {kind!r} and its name {shown}; it is skipped"
                self._unreadable.report("changes", f"number {number}", what)
            else:
                yield from_row(str(kind), name)

    async def _is_woken(self) -> bool:
        """Wait for a notification until it is time to poll. False when none came."""
        connection = await self._connection.connected()
        try:
            async for _ in connection.notifies(timeout=_POLL_SECONDS, stop_after=1):
                return True
        except psycopg.OperationalError:
            await self.close()
            return True  # a notification may have been lost with the connection
        return False
