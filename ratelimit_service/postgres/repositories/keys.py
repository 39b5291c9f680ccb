"""Keys in Postgres. Rows of which a part is not valid are read all the same: any key can be found and revoked."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    Text,
    and_,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.decision.limit import Level
from ratelimit_service.decision.record import KeyState, Override, SecretHash
from ratelimit_service.management.key import Key, KeyChanges, Standing
from ratelimit_service.management.key_filter import KeyFilter
from ratelimit_service.postgres.repositories.conditions import begins_with, readable_time
from ratelimit_service.postgres.repositories.overrides import read_override_rows, to_overrides
from ratelimit_service.postgres.tables import Microseconds, key_secrets, keys, plans
from ratelimit_service.postgres.usage_tables import key_last_used


class PostgresKeyRepository:
    """As `management.keys.KeyRepository` describes it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, key_id: str) -> Key | None:
        """Read a key with its overrides, revoked ones included."""
        found = await self._read(_SELECT.where(keys.c.key_id == key_id))
        return found[0][1] if found else None

    async def get_all(self, key_ids: Collection[str]) -> Mapping[str, Key]:
        """Read those of these keys that exist, by their ids, without their overrides."""
        if not key_ids:
            return {}
        rows = (await self._connection.execute(_SELECT.where(keys.c.key_id.in_(key_ids)))).all()
        secrets = await read_secrets(self._connection, [row.key_id for row in rows])
        return {row.key_id: _key(row, tuple(secrets.get(row.key_id, ())), ()) for row in rows}

    async def list(
        self, *, after: int | None, count: int, filters: KeyFilter, now_us: int
    ) -> Sequence[tuple[int, Key]]:
        """Read at most COUNT keys that FILTERS match at NOW_US, in the order of their creation, each with its number.

        All are numbered above AFTER, unless it is None.
        """
        return await self._read(key_list(after=after, count=count, filters=filters, now_us=now_us))

    async def add(self, key: Key) -> None:
        """Insert a new key. Its plan exists."""
        await self.add_all([key])

    async def add_all(self, new: Sequence[Key]) -> None:
        """Insert new keys, in this order. Their plans exist."""
        if not new:
            return
        named = select(plans.c.name, plans.c.plan_id).where(
            plans.c.name.in_({key.plan for key in new}), plans.c.delete_time.is_(None)
        )
        plan_ids: dict[str, int] = {row.name: row.plan_id for row in await self._connection.execute(named)}
        rows = [
            {
                **_values(key),
                "plan_id": plan_ids[key.plan],
                "key_id": key.key_id,
                "subject": key.subject,
                "create_time": key.created_us,
            }
            for key in new
        ]
        await self._connection.execute(insert(keys), rows)
        await self._add_secrets(new)

    async def update(self, key: Key, changes: KeyChanges) -> None:
        """Update these fields of a key, its revision and update time, and nothing else."""
        written = _values(key)
        values = {column: written[column] for field, column in _COLUMNS.items() if field in changes}
        if "plan" in changes:
            plan_id = select(plans.c.plan_id).where(plans.c.name == key.plan, plans.c.delete_time.is_(None))
            values["plan_id"] = plan_id.scalar_subquery()
        await self._revise(key, values)

    async def save_secrets(self, key: Key) -> None:
        """Replace the secrets of a key, update its revision and update time, and nothing else."""
        await self._revise(key, {})
        await self._connection.execute(delete(key_secrets).where(key_secrets.c.key_id == key.key_id))
        await self._add_secrets([key])

    async def save_states(self, changed: Sequence[Key]) -> None:
        """Update the state, revision and update time of keys, and nothing else."""
        if not changed:
            return
        statement = update(keys).where(keys.c.key_id == bindparam("changed_key"))
        rows = [
            {
                "changed_key": key.key_id,
                "state": key.state.value,
                "revision": key.revision,
                "update_time": key.updated_us,
            }
            for key in changed
        ]
        await self._connection.execute(statement, rows)

    async def count_on_plan(self, plan: str) -> int:
        """Count the keys on a plan that are not revoked."""
        statement = (
            select(func.count())
            .select_from(keys)
            .join(plans)
            .where(plans.c.name == plan, plans.c.delete_time.is_(None), keys.c.state != KeyState.REVOKED.value)
        )
        return (await self._connection.execute(statement)).scalar_one()

    async def plans_of(self, subject: str) -> Mapping[str, int]:
        """Count the keys of a subject that are not revoked, by their plans."""
        statement = (
            select(plans.c.name, func.count().label("number"))
            .join_from(keys, plans)
            .where(keys.c.subject == subject, keys.c.state != KeyState.REVOKED.value)
            .group_by(plans.c.name)
            .order_by(plans.c.name)
        )
        return {row.name: row.number for row in await self._connection.execute(statement)}

    async def _revise(self, key: Key, values: dict[str, Any]) -> None:
        values |= {"revision": key.revision, "update_time": key.updated_us}
        await self._connection.execute(update(keys).where(keys.c.key_id == key.key_id).values(values))

    async def _add_secrets(self, of: Sequence[Key]) -> None:
        rows = [
            {
                "key_id": key.key_id,
                "digest": secret.digest,
                "pepper_version": secret.pepper_version,
                "expire_time": secret.expires_us,
                "environment": secret.environment,
            }
            for key in of
            for secret in key.secrets
        ]
        if rows:
            await self._connection.execute(insert(key_secrets), rows)

    async def _read(self, statement: Select[Any]) -> Sequence[tuple[int, Key]]:
        rows = (await self._connection.execute(statement)).all()
        key_ids = [row.key_id for row in rows]
        secrets = await read_secrets(self._connection, key_ids)
        overrides = await read_override_rows(self._connection, Level.KEY, key_ids)
        return [
            (row.number, _key(row, tuple(secrets.get(row.key_id, ())), to_overrides(overrides.get(row.key_id, ()))))
            for row in rows
        ]


_COLUMNS = {"description": "description", "expires_us": "expire_time", "labels": "labels"}
"""The columns of the fields that KeyChanges has, but for the plan."""

_READ = select(
    keys.c.key_id,
    keys.c.number,
    keys.c.subject,
    keys.c.state,
    keys.c.description,
    keys.c.revision,
    readable_time(keys.c.create_time),
    readable_time(keys.c.update_time),
    readable_time(keys.c.expire_time),
    cast(keys.c.labels, Text).label("labels"),  # parsed below: one that is not valid must not fail all
    plans.c.name.label("plan"),
    readable_time(key_last_used.c.last_used),
)
_WITH_LAST_USED = key_last_used, key_last_used.c.key_id == keys.c.key_id
_SELECT = _READ.outerjoin_from(keys, plans).outerjoin(*_WITH_LAST_USED)
_LISTED = _READ.join_from(keys, plans).outerjoin(*_WITH_LAST_USED)  # by which Postgres finds the keys of a plan


# Looked up for each key in the order of their numbers: a page of unused keys is full long before all keys were joined.
_LAST_USED = (
    select(key_last_used.c.last_used).where(key_last_used.c.key_id == keys.c.key_id).correlate(keys).scalar_subquery()
)
_EPOCH = literal(0, Microseconds)


def key_list(*, after: int | None, count: int, filters: KeyFilter, now_us: int) -> Select[Any]:
    """The statement of `PostgresKeyRepository.list`."""
    statement = _LISTED.where(*_conditions(filters, now_us)).order_by(keys.c.number).limit(count)
    return statement if after is None else statement.where(keys.c.number > after)


def _conditions(filters: KeyFilter, now_us: int) -> Iterator[ColumnElement[bool]]:
    columns = keys.c
    if filters.subject:
        yield columns.subject == filters.subject
    if filters.plan:
        yield columns.plan_id.in_(select(plans.c.plan_id).where(plans.c.name == filters.plan))
    if filters.standing is not None:
        yield _stands(filters.standing, now_us)
    if filters.subject_prefix:
        yield from begins_with(columns.subject, filters.subject_prefix)
    if filters.labels:
        yield columns.labels.contains(dict(filters.labels))
    if filters.expires_after_us is not None:
        yield columns.expire_time >= filters.expires_after_us
    if filters.expires_before_us is not None:
        yield columns.expire_time < filters.expires_before_us
    if filters.key_id_prefix:  # the column has the order of bytes, and ids are letters and digits
        yield columns.key_id >= filters.key_id_prefix
        yield columns.key_id < filters.key_id_prefix + "\x7f"
    yield from _unused(filters)


def _unused(filters: KeyFilter) -> Iterator[ColumnElement[bool]]:
    """That a key was not used for long enough, or never."""
    if filters.used_before_us is not None and filters.never_used:
        yield func.coalesce(_LAST_USED, _EPOCH) < filters.used_before_us
    elif filters.used_before_us is not None:
        yield key_last_used.c.last_used < filters.used_before_us
    elif filters.never_used:
        yield _LAST_USED.is_(None)


def _stands(standing: Standing, now_us: int) -> ColumnElement[bool]:
    """That a key has this effective state."""
    if standing is Standing.REVOKED:
        return keys.c.state == KeyState.REVOKED.value
    if standing is Standing.SUSPENDED:
        return keys.c.state == KeyState.SUSPENDED.value
    active = keys.c.state == KeyState.ACTIVE.value
    if standing is Standing.EXPIRED:
        return and_(active, keys.c.expire_time <= now_us)
    return and_(active, or_(keys.c.expire_time > now_us, keys.c.expire_time.is_(None)))


def _values(key: Key) -> dict[str, Any]:
    return {
        "state": key.state.value,
        "description": key.description,
        "revision": key.revision,
        "update_time": key.updated_us,
        "expire_time": key.expires_us,
        "labels": dict(key.labels),
    }


def _key(row: Row[*tuple[Any, ...]], secrets: tuple[SecretHash, ...], overrides: tuple[Override, ...]) -> Key:
    return Key(
        key_id=row.key_id,
        subject=row.subject or "",
        plan=row.plan or "",
        state=KeyState(row.state) if row.state in _STATES else KeyState.SUSPENDED,
        description=row.description or "",
        created_us=row.create_time or 0,
        updated_us=row.update_time or 0,
        expires_us=row.expire_time,
        secrets=secrets,
        revision=row.revision or 0,
        overrides=overrides,
        labels=_labels(row.labels),
        last_used_us=row.last_used,
    )


_STATES = frozenset(state.value for state in KeyState)


def _labels(text: str | None) -> Mapping[str, str]:
    """The labels of a column, those that are texts."""
    try:
        labels = json.loads(text or "{}")
        return {name: value for name, value in labels.items() if isinstance(value, str)}
    except (ValueError, AttributeError, RecursionError):
        return {}


async def read_secrets(connection: AsyncConnection, key_ids: Collection[str]) -> Mapping[str, Sequence[SecretHash]]:
    """Read the secrets of these keys, for each the current one first."""
    if not key_ids:
        return {}
    columns = key_secrets.c
    statement = (
        select(
            columns.key_id,
            columns.pepper_version,
            columns.digest,
            readable_time(columns.expire_time),
            columns.environment,
        )
        .where(key_secrets.c.key_id.in_(key_ids))
        .order_by(key_secrets.c.key_id, key_secrets.c.expire_time.desc().nulls_first())
    )
    by_key: defaultdict[str, list[SecretHash]] = defaultdict(list)
    for row in await connection.execute(statement):
        by_key[row.key_id].append(
            SecretHash(row.pepper_version or 0, bytes(row.digest), row.expire_time, row.environment)
        )
    return by_key
