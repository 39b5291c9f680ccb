"""Policies, as the decision plane reads them from Postgres."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from ratelimit_service.decision.ports import Fetched
from ratelimit_service.decision.record import PartialRecord, PolicyRecord
from ratelimit_service.management.overrides import MAX_OVERRIDES
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.failures import translate_failures
from ratelimit_service.postgres.policy_rows import MAX_DOCUMENT, MAX_SECRETS, MAX_TEXT, PolicyRow, PolicyRows
from ratelimit_service.postgres.query_connection import QueryConnection
from ratelimit_service.postgres.unreadable_rows import UnreadableRows

_FETCH_SECONDS: Final = 0.8
"""How long a read of policies may take, so that a dead Postgres is reported within a second."""

_LIST_SECONDS: Final = 3.0
"""How long a read of ids may take, for which nobody waits."""

_SLICE: Final = 20
"""Rows that are decoded without letting calls go first: some 1 ms."""

# One statement, hence one snapshot and one round trip. Times come as texts, and texts are cut off: what Python cannot
# represent, such as infinity, and what is too large to be read in time must make its own row unreadable, not all of
# them. What keys share, the limits of a plan and the overrides of a subject, comes with one of them only.
_OVERRIDES: Final = """(
        SELECT left(
            json_agg(json_build_array(o.limit_name, o.limit_document, o.expire_time) ORDER BY o.limit_name)::text,
            {characters}
        ) FROM (
            SELECT * FROM overrides WHERE level = '{level}' AND target = {target} ORDER BY limit_name LIMIT {rows}
        ) AS o
    )"""
_BOUNDS: Final = {"characters": MAX_DOCUMENT + 1, "rows": MAX_OVERRIDES + 1}
_FETCH: Final = f"""
SELECT k.key_id, left(k.subject, {MAX_TEXT + 1}), left(k.state, {MAX_TEXT}), to_json(k.expire_time) #>> '{{}}',
    (
        SELECT json_agg(
            json_build_array(
                s.pepper_version, encode(s.digest, 'hex'), s.expire_time, left(s.environment, {MAX_TEXT})
            )
            ORDER BY s.expire_time DESC NULLS FIRST
        )
        FROM (
            SELECT * FROM key_secrets WHERE key_id = k.key_id
            ORDER BY expire_time DESC NULLS FIRST LIMIT {MAX_SECRETS + 1}
        ) AS s
    ),
    p.plan_id, left(p.name, {MAX_TEXT + 1}), p.version, left(v.on_store_failure, {MAX_TEXT}),
    CASE WHEN row_number() OVER (PARTITION BY p.plan_id) = 1 THEN left(v.limits::text, {MAX_DOCUMENT + 1}) END,
    CASE WHEN row_number() OVER (PARTITION BY k.subject) = 1 THEN
        {_OVERRIDES.format(level="subject", target="k.subject", **_BOUNDS)}
    END,
    {_OVERRIDES.format(level="key", target="k.key_id", **_BOUNDS)}
FROM keys AS k
LEFT JOIN plans AS p ON p.plan_id = k.plan_id
LEFT JOIN plan_versions AS v ON v.plan_id = p.plan_id AND v.version = p.version
WHERE k.key_id = ANY (%(key_ids)s::text[])
"""  # noqa: S608  no caller's text
_EXPECTED: Final = "SELECT reltuples::bigint FROM pg_class WHERE oid = 'keys'::regclass"
"""To count them takes seconds for some millions."""

_IDS: Final = "SELECT key_id FROM keys WHERE key_id > %s ORDER BY key_id LIMIT %s"


class PostgresPolicySource:
    """As `decision.policy_cache.Source` describes it, on connections of its own: nothing else delays a lookup.

    Ids are listed on another one, which is closed at the end of the list.
    """

    def __init__(self, database: Database, unreadable: UnreadableRows | None = None) -> None:
        """UNREADABLE gets the rows that are not valid."""
        self._connection = database.query_connection()
        self._listing = database.query_connection()
        self._rows = PolicyRows(unreadable or UnreadableRows())

    async def fetch(self, key_ids: Collection[str]) -> Fetched:
        """Read these keys in one snapshot. Raises StoreUnavailable.

        A row that is not valid is reported, and harms only what it says; it does not affect other keys.
        """
        # An id that no key can have may hold what Postgres does not accept, such as a NUL.
        possible = [key_id for key_id in key_ids if key_id.isascii() and key_id.isalnum()]
        if not possible:
            return Fetched({})
        values = {"key_ids": possible}
        rows = [PolicyRow._make(row) for row in await self._query(self._connection, _FETCH_SECONDS, _FETCH, values)]
        limits = {row.plan_id: row.limits for row in rows if row.limits is not None}
        overrides = {row.subject: row.subject_overrides for row in rows if row.subject_overrides is not None}
        records: dict[str, PolicyRecord] = {}
        unreadable: dict[str, PartialRecord] = {}
        reported: set[str] = set()
        for number, row in enumerate(rows, 1):
            if number % _SLICE == 0:
                await asyncio.sleep(0)
            record = self._rows.decode(row, limits.get(row.plan_id), overrides.get(row.subject), reported)
            if isinstance(record, PolicyRecord):
                records[row.key_id] = record
            else:
                unreadable[row.key_id] = record
        return Fetched(records, unreadable)

    async def expected_keys(self) -> int:
        """About how many keys there are, as Postgres last estimated; 0 before that. Raises StoreUnavailable."""
        ((count,),) = await self._query(self._listing, _LIST_SECONDS, _EXPECTED)
        return max(int(count), 0)

    async def key_ids(self, after: str, count: int) -> Sequence[str]:
        """The first COUNT ids after AFTER, in their order. Raises StoreUnavailable."""
        found = [key_id for (key_id,) in await self._query(self._listing, _LIST_SECONDS, _IDS, (after, count))]
        if not found:
            await self._listing.close()
        return found

    async def _query(
        self,
        connection: QueryConnection,
        seconds: float,
        statement: str,
        values: Sequence[object] | Mapping[str, object] = (),
    ) -> list[tuple[Any, ...]]:
        with translate_failures():
            return await connection.query(seconds, statement, values)
