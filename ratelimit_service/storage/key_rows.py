"""Rows that hang on keys and subjects, read for many of them at once."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.decision.limit import Level
from ratelimit_service.decision.record import Override, SecretHash
from ratelimit_service.keys.limit_document import from_document
from ratelimit_service.storage.tables import key_secrets, overrides

OverrideRow = Row[*tuple[Any, ...]]
"""The `limit_document` and `expire_time` of an override, not yet made into one: it may make no valid limit."""


async def read_secrets(connection: AsyncConnection, key_ids: Collection[str]) -> Mapping[str, Sequence[SecretHash]]:
    """Read the secrets of these keys, for each the current one first."""
    if not key_ids:
        return {}
    statement = (
        select(key_secrets)
        .where(key_secrets.c.key_id.in_(key_ids))
        .order_by(key_secrets.c.key_id, key_secrets.c.expire_time.desc().nulls_first())
    )
    by_key: defaultdict[str, list[SecretHash]] = defaultdict(list)
    for row in await connection.execute(statement):
        by_key[row.key_id].append(SecretHash(row.pepper_version, bytes(row.digest), row.expire_time))
    return by_key


async def read_override_rows(
    connection: AsyncConnection, level: Level, targets: Collection[str]
) -> Mapping[str, Sequence[OverrideRow]]:
    """Read the overrides of these keys or subjects, for each in the order of their limits' names."""
    if not targets:
        return {}
    statement = (
        select(overrides)
        .where(overrides.c.level == level.value, overrides.c.target.in_(targets))
        .order_by(overrides.c.target, overrides.c.limit_name)
    )
    by_target: defaultdict[str, list[OverrideRow]] = defaultdict(list)
    for row in await connection.execute(statement):
        by_target[row.target].append(row)
    return by_target


def to_overrides(rows: Sequence[OverrideRow]) -> tuple[Override, ...]:
    """Make overrides of their rows. Raises what `from_document` raises when one makes no valid limit."""
    return tuple(Override(from_document(row.limit_document), row.expire_time) for row in rows)
