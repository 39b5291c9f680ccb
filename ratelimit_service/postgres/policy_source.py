"""Policies, as the decision plane reads them from Postgres."""

from collections.abc import Collection, Sequence
from typing import Any

import structlog
from sqlalchemy import Row, and_, select

from ratelimit_service.decision.limit import Level, Limit
from ratelimit_service.decision.lru import LruCache
from ratelimit_service.decision.ports import Fetched
from ratelimit_service.decision.record import KeyState, OnStoreFailure, PolicyRecord, SecretHash
from ratelimit_service.errors import ServiceError
from ratelimit_service.management.documents import Document, limit_from_document
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.failures import HardTimeout, translate_failures
from ratelimit_service.postgres.repositories.keys import read_secrets
from ratelimit_service.postgres.repositories.overrides import OverrideRow, read_override_rows, to_overrides
from ratelimit_service.postgres.tables import keys, plan_versions, plans

_FETCH_SECONDS = 2.0
"""How long a read of policies may take. Callers that wait for one have timed out long before."""

_MAX_PLAN_VERSIONS = 1_000  # with limits that are kept decoded

_SELECT = (
    select(
        keys.c.key_id,
        keys.c.subject,
        keys.c.state,
        keys.c.expire_time,
        plans.c.plan_id,
        plans.c.name.label("plan"),
        plans.c.version,
        plan_versions.c.limits,
        plan_versions.c.on_store_failure,
    )
    .join_from(keys, plans)
    .outerjoin(
        plan_versions, and_(plan_versions.c.plan_id == plans.c.plan_id, plan_versions.c.version == plans.c.version)
    )
)

_log = structlog.get_logger(__name__)


class PostgresPolicySource:
    """As `decision.ports.PolicySource` describes it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._timeout = HardTimeout()
        self._decoded: LruCache[tuple[int, int], tuple[Sequence[Document], tuple[Limit, ...]]] = LruCache(
            _MAX_PLAN_VERSIONS
        )

    async def fetch(self, key_ids: Collection[str]) -> Fetched:
        """Read these keys in one snapshot. Raises StoreUnavailable.

        A key with rows that are not a valid policy is logged and reported as unreadable; it does not affect the others.
        """
        # An id that no key can have may hold what Postgres does not accept, such as a NUL.
        possible = [key_id for key_id in key_ids if key_id.isascii() and key_id.isalnum()]
        if not possible:
            return Fetched({})
        with translate_failures():
            return await self._timeout.run(_FETCH_SECONDS, self._fetch(possible))

    async def _fetch(self, key_ids: Sequence[str]) -> Fetched:
        async with self._database.reading() as connection:
            rows = (await connection.execute(_SELECT.where(keys.c.key_id.in_(key_ids)))).all()
            found = [row.key_id for row in rows]
            secrets = await read_secrets(connection, found)
            of_keys = await read_override_rows(connection, Level.KEY, found)
            of_subjects = await read_override_rows(connection, Level.SUBJECT, {row.subject for row in rows})
        records: dict[str, PolicyRecord] = {}
        unreadable: set[str] = set()
        for row in rows:
            try:
                records[row.key_id] = _record(
                    row,
                    self._limits(row),
                    secrets.get(row.key_id, ()),
                    of_keys.get(row.key_id, ()),
                    of_subjects.get(row.subject, ()),
                )
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

    def _limits(self, row: Row[*tuple[Any, ...]]) -> tuple[Limit, ...]:
        """The limits of the row's plan, the same objects for all its keys: there may be a hundred thousand of them."""
        version = (row.plan_id, row.version)
        known = self._decoded.get(version)
        if known is None or known[0] != row.limits:  # the service never changes rows, but people may
            known = (row.limits, tuple(limit_from_document(document) for document in row.limits))
            self._decoded.put(version, known)
        return known[1]


def _record(
    row: Row[*tuple[Any, ...]],
    limits: tuple[Limit, ...],
    secrets: Sequence[SecretHash],
    of_key: Sequence[OverrideRow],
    of_subject: Sequence[OverrideRow],
) -> PolicyRecord:
    return PolicyRecord(
        key_id=row.key_id,
        subject=row.subject,
        state=KeyState(row.state),
        expires_us=row.expire_time,
        secrets=tuple(secrets),
        plan=row.plan,
        plan_version=row.version,
        on_store_failure=OnStoreFailure(row.on_store_failure),
        limits=limits,
        subject_overrides=to_overrides(of_subject),
        key_overrides=to_overrides(of_key),
    )
