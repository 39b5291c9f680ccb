"""The change feed: how the decision plane learns of changes, from the outbox that `unit_of_work` writes."""

from collections.abc import Iterable, Iterator

import psycopg

from ratelimit_service.decision.ports import Change, ChangeKind, Changes
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.failures import translate_failures
from ratelimit_service.postgres.tables import CHANGES_CHANNEL
from ratelimit_service.postgres.unreadable_rows import UnreadableRows

_POLL_SECONDS = 0.9
"""How long to wait for a notification before the outbox is read anyway, in case a notification is lost."""

_ANSWER_SECONDS = 1.0
_MAX_PER_READ = 10_000
_FIRST = 1  # the number of the first change ever
_KINDS = frozenset(kind.value for kind in ChangeKind)
_READ = (
    "SELECT number, kind, name, (SELECT min(number) FROM changes) FROM changes "
    "WHERE number > %s ORDER BY number LIMIT %s"
)


class PostgresChangeFeed:
    """As `decision.ports.ChangeFeed` describes it, for one reader. A position is the number of a row in the outbox.

    A connection of its own listens for notifications, which only wake the reader: what has changed is read from the
    outbox, at least once a second. So neither a lost notification nor a lost connection hides a change.

    A row that cannot be read is reported to `unreadable` and skipped: a kind that this version does not know is about
    something that it does not have, and what is known of others must not wait for it.
    """

    def __init__(self, database: Database, unreadable: UnreadableRows | None = None) -> None:
        self._unreadable = unreadable or UnreadableRows()
        self._connection = database.query_connection(f"LISTEN {CHANGES_CHANNEL}")

    async def position(self) -> int:
        """Return the position after the newest change so far, 0 if there is none. Raises StoreUnavailable."""
        with translate_failures():
            rows = await self._connection.query(_ANSWER_SECONDS, "SELECT coalesce(max(number), 0) FROM changes")
            return int(rows[0][0])

    async def wait(self, after: int) -> Changes:
        """Return the changes since position AFTER within a second or so, perhaps none.

        Raises StoreUnavailable.
        """
        with translate_failures():
            found = await self._read_changes(after)
            if found.position == after and await self._is_woken():
                found = await self._read_changes(after)
            return found

    async def close(self) -> None:
        """Close the connection. It is opened again when it is needed."""
        await self._connection.close()

    async def _read_changes(self, after: int) -> Changes:
        rows = await self._connection.query(_ANSWER_SECONDS, _READ, (after, _MAX_PER_READ))
        if not rows:
            return Changes(after, [])
        # Retention deletes from the oldest on: as long as there is a row that the reader has seen, it has missed none.
        complete = rows[0][3] <= max(after, _FIRST)
        return Changes(rows[-1][0], list(self._readable(rows)), complete)

    def _readable(self, rows: Iterable[tuple[int, object, object, int]]) -> Iterator[Change]:
        for number, kind, name, _ in rows:
            if kind not in _KINDS or not isinstance(name, str):
                what = f"its kind is {kind!r} and its name {name!r}; it is skipped"
                self._unreadable.report("changes", f"number {number}", what)
            else:
                yield Change(ChangeKind(kind), name)

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
