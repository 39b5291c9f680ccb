"""Overrides in Postgres."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import structlog
from sqlalchemy import Row, Text, cast, delete, literal, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.decision.limit import Level
from ratelimit_service.decision.record import Override
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.documents import limit_from_document, limit_to_document
from ratelimit_service.management.overrides import FoundOverride, OverrideTarget, StoredOverride
from ratelimit_service.management.paging import invalid_token
from ratelimit_service.postgres.repositories.conditions import readable_time
from ratelimit_service.postgres.tables import overrides

_log = structlog.get_logger(__name__)

_LEVELS: Final[Mapping[str, Literal[Level.KEY, Level.SUBJECT]]] = {
    Level.KEY.value: Level.KEY,
    Level.SUBJECT.value: Level.SUBJECT,
}

OverrideRow = Row[*tuple[Any, ...]]
"""The `limit_document` and `expire_time` of an override, not decoded yet: it may not be a valid limit."""


async def read_override_rows(
    connection: AsyncConnection, level: Level, targets: Collection[str]
) -> Mapping[str, Sequence[OverrideRow]]:
    """Read the overrides of these keys or subjects, for each in the order of their limits' names."""
    if not targets:
        return {}
    columns = overrides.c
    statement = (
        select(
            columns.target,
            columns.limit_name,
            cast(columns.limit_document, Text).label("limit_document"),
            readable_time(columns.expire_time),
        )
        .where(overrides.c.level == level.value, overrides.c.target.in_(targets))
        .order_by(overrides.c.target, overrides.c.limit_name)
    )
    by_target: defaultdict[str, list[OverrideRow]] = defaultdict(list)
    for row in await connection.execute(statement):
        by_target[row.target].append(row)
    return by_target


def to_overrides(rows: Sequence[OverrideRow]) -> tuple[Override, ...]:
    """Decode the rows of overrides. One that is not a valid limit is left out: it can be replaced or deleted."""
    return tuple(_decoded(rows))


def _decoded(rows: Sequence[OverrideRow]) -> Iterator[Override]:
    for row in rows:
        try:
            yield Override(limit_from_document(json.loads(row.limit_document)), row.expire_time)
        except Exception as error:  # noqa: BLE001 whatever is wrong with a row, it must not hide the others
            _log.warning(
                "an override cannot be read",
                target=row.target,
                limit=row.limit_name,
                why=f"{type(error).__name__}: {error}",
            )


def _target(level: str, name: str) -> OverrideTarget | None:
    """What an override is set for; None if it was written past the API, and can be of nothing that there is."""
    try:
        return OverrideTarget(_LEVELS[level], name)
    except InvalidArgument:
        return None


class PostgresOverrideRepository:
    """As `management.overrides.OverrideRepository` describes it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self, target: OverrideTarget) -> Sequence[Override]:
        """Read the overrides of a target in the order of their limits' names, those that have expired included."""
        rows = await read_override_rows(self._connection, target.level, [target.name])
        return to_overrides(rows.get(target.name, ()))

    async def list_all(self, *, after: str, count: int) -> Sequence[FoundOverride]:
        """Read at most COUNT overrides after the position AFTER: of keys, by their ids, and then of subjects."""
        columns = overrides.c
        place = tuple_(columns.level, columns.target, columns.limit_name)
        statement = (
            select(
                columns.level,
                columns.target,
                columns.limit_name,
                cast(columns.limit_document, Text).label("limit_document"),
                readable_time(columns.expire_time),
            )
            .order_by(columns.level, columns.target, columns.limit_name)
            .limit(count)
        )
        if after:
            level, _, rest = after.partition("/")
            limit, slash, target = rest.partition("/")
            if level not in _LEVELS or not slash:
                raise invalid_token()
            statement = statement.where(place > tuple_(literal(level), literal(target), literal(limit)))
        return [
            FoundOverride(
                f"{row.level}/{row.limit_name}/{row.target}",
                _target(row.level, row.target),
                next(iter(to_overrides([row])), None),
            )
            for row in await self._connection.execute(statement)
        ]

    async def put(self, target: OverrideTarget, override: Override) -> None:
        """Insert an override, or replace the one of the same name."""
        content = {"limit_document": limit_to_document(override.limit), "expire_time": override.expires_us}
        statement = insert(overrides).values(
            level=target.level.value, target=target.name, limit_name=override.limit.name, **content
        )
        await self._connection.execute(statement.on_conflict_do_update(constraint=overrides.primary_key, set_=content))

    async def delete(self, target: OverrideTarget, limit: str) -> StoredOverride | None:
        """Delete the override of this name and return it as it was stored. None if there is none."""
        statement = (
            delete(overrides)
            .where(
                overrides.c.level == target.level.value,
                overrides.c.target == target.name,
                overrides.c.limit_name == limit,
            )
            .returning(overrides.c.limit_document, overrides.c.expire_time)
        )
        row = (await self._connection.execute(statement)).one_or_none()
        return None if row is None else StoredOverride(row.limit_document, row.expire_time)
