"""Policies, as the decision plane reads them from Postgres."""

import asyncio
import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import structlog

from ratelimit_service.decision.limit import Limit
from ratelimit_service.decision.lru import LruCache
from ratelimit_service.decision.ports import Fetched
from ratelimit_service.decision.record import KeyState, OnStoreFailure, Override, PolicyRecord, SecretHash
from ratelimit_service.errors import ServiceError
from ratelimit_service.management.documents import Document, limit_from_document
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.failures import translate_failures

_FETCH_SECONDS: Final = 0.8
"""How long a read of policies may take, so that a dead Postgres is reported within a second."""

_LIST_SECONDS: Final = 3.0
"""How long a read of ids may take, for which nobody waits."""

_MAX_PLAN_VERSIONS: Final = 1_000  # with limits that are kept decoded
_MAX_OVERRIDES: Final = 500  # texts of overrides that are kept decoded, of up to 16 overrides each
_SLICE: Final = 20
"""Rows that are decoded without letting calls go first: some 1 ms."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TICK: Final = timedelta(microseconds=1)

# One statement, hence one snapshot and one round trip. Times come as texts: one that Python cannot represent, such as
# infinity, must make its own row unreadable, not all of them. What keys share, the limits of a plan and the overrides
# of a subject, comes with one of them only.
_FETCH: Final = """
SELECT k.key_id, k.subject, k.state, k.expire_time::text,
    (
        SELECT json_agg(
            json_build_array(s.pepper_version, encode(s.digest, 'hex'), s.expire_time, s.environment)
            ORDER BY s.expire_time DESC NULLS FIRST
        )
        FROM key_secrets AS s WHERE s.key_id = k.key_id
    ),
    p.plan_id, p.name, p.version, v.on_store_failure,
    CASE WHEN row_number() OVER (PARTITION BY p.plan_id) = 1 THEN v.limits::text END,
    CASE WHEN row_number() OVER (PARTITION BY k.subject) = 1 THEN (
        SELECT json_agg(json_build_array(o.limit_document, o.expire_time) ORDER BY o.limit_name)
        FROM overrides AS o WHERE o.level = 'subject' AND o.target = k.subject
    )::text END,
    (
        SELECT json_agg(json_build_array(o.limit_document, o.expire_time) ORDER BY o.limit_name)::text
        FROM overrides AS o WHERE o.level = 'key' AND o.target = k.key_id
    )
FROM keys AS k
JOIN plans AS p ON p.plan_id = k.plan_id
LEFT JOIN plan_versions AS v ON v.plan_id = p.plan_id AND v.version = p.version
WHERE k.key_id = ANY (%(key_ids)s::text[])
"""
_COUNT: Final = "SELECT count(*) FROM keys"
_IDS: Final = "SELECT key_id FROM keys WHERE key_id > %s ORDER BY key_id LIMIT %s"

_log = structlog.get_logger(__name__)


class _Row(NamedTuple):
    """What _FETCH returns of a key."""

    key_id: str
    subject: str
    state: str
    expire_time: str | None
    secrets: list[tuple[int, str, str | None, str | None]] | None
    plan_id: int
    plan: str
    version: int
    on_store_failure: str | None
    limits: str | None
    subject_overrides: str | None
    key_overrides: str | None


class PostgresPolicySource:
    """As `decision.policy_cache.Source` describes it, on a connection of its own: nothing else delays a lookup."""

    def __init__(self, database: Database) -> None:
        self._connection = database.query_connection()
        self._limits: LruCache[tuple[int, int], tuple[str, tuple[Limit, ...]]] = LruCache(_MAX_PLAN_VERSIONS)
        self._overrides: LruCache[str, tuple[Override, ...]] = LruCache(_MAX_OVERRIDES)

    async def fetch(self, key_ids: Collection[str]) -> Fetched:
        """Read these keys in one snapshot. Raises StoreUnavailable.

        A key with rows that are not a valid policy is logged and reported as unreadable; it does not affect the others.
        """
        # An id that no key can have may hold what Postgres does not accept, such as a NUL.
        possible = [key_id for key_id in key_ids if key_id.isascii() and key_id.isalnum()]
        if not possible:
            return Fetched({})
        rows = [_Row._make(row) for row in await self._query(_FETCH_SECONDS, _FETCH, {"key_ids": possible})]
        limits = {row.plan_id: row.limits for row in rows if row.limits is not None}
        overrides = {row.subject: row.subject_overrides for row in rows if row.subject_overrides is not None}
        records: dict[str, PolicyRecord] = {}
        unreadable: set[str] = set()
        for number, row in enumerate(rows, 1):
            if number % _SLICE == 0:
                await asyncio.sleep(0)
            try:
                records[row.key_id] = self._record(row, limits.get(row.plan_id), overrides.get(row.subject))
            except (ServiceError, KeyError, TypeError, ValueError, AttributeError) as error:
                unreadable.add(row.key_id)
                _log.error(
                    "the rows of a key are not a valid policy; the last valid one stays in force",
                    key_id=row.key_id,
                    plan=row.plan,
                    plan_version=row.version,
                    why=f"{type(error).__name__}: {error}",
                )
        return Fetched(records, frozenset(unreadable))

    async def count_keys(self) -> int:
        """How many keys there are, revoked ones included. Raises StoreUnavailable."""
        ((count,),) = await self._query(_LIST_SECONDS, _COUNT)
        return int(count)

    async def key_ids(self, after: str, count: int) -> Sequence[str]:
        """The first COUNT ids after AFTER, in their order. Raises StoreUnavailable."""
        return [key_id for (key_id,) in await self._query(_LIST_SECONDS, _IDS, (after, count))]

    async def _query(
        self, seconds: float, statement: str, values: Sequence[object] | dict[str, object] = ()
    ) -> list[tuple[Any, ...]]:
        with translate_failures():
            return await self._connection.query(seconds, statement, values)

    def _record(self, row: _Row, limits: str | None, overrides: str | None) -> PolicyRecord:
        return PolicyRecord(
            key_id=row.key_id,
            subject=row.subject,
            state=KeyState(row.state),
            expires_us=_microseconds(row.expire_time),
            secrets=tuple(
                SecretHash(version, bytes.fromhex(digest), _microseconds(expire_time), environment)
                for version, digest, expire_time, environment in row.secrets or ()
            ),
            plan=row.plan,
            plan_version=row.version,
            on_store_failure=OnStoreFailure(row.on_store_failure),
            limits=self._decoded_limits((row.plan_id, row.version), limits),
            subject_overrides=self._decoded_overrides(overrides),
            key_overrides=self._decoded_overrides(row.key_overrides),
        )

    def _decoded_limits(self, version: tuple[int, int], text: str | None) -> tuple[Limit, ...]:
        """The limits of a plan's version, the same objects for all its keys, which may be a hundred thousand."""
        if text is None:
            raise ValueError("its plan has no row for the version in force")
        known = self._limits.get(version)
        if known is None or known[0] != text:  # the service never changes rows, but people may
            known = (text, tuple(limit_from_document(document) for document in json.loads(text)))
            self._limits.put(version, known)
        return known[1]

    def _decoded_overrides(self, text: str | None) -> tuple[Override, ...]:
        """The overrides of a subject or key, the same objects for all keys that have the same."""
        if text is None:
            return ()
        known = self._overrides.get(text)
        if known is None:
            rows: list[tuple[Document, str | None]] = json.loads(text)
            known = tuple(Override(limit_from_document(document), _microseconds(end)) for document, end in rows)
            self._overrides.put(text, known)
        return known


def _microseconds(time: str | None) -> int | None:
    """A time of Postgres as microseconds since 1970 UTC. Raises ValueError for one that Python cannot represent."""
    return None if time is None else (datetime.fromisoformat(time) - _EPOCH) // _TICK
