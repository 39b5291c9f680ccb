"""Overrides in Postgres."""

from collections.abc import Sequence

from sqlalchemy import delete
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.decision.record import Override
from ratelimit_service.keys.limit_document import to_document
from ratelimit_service.keys.target import OverrideTarget
from ratelimit_service.storage.key_rows import read_override_rows, to_overrides
from ratelimit_service.storage.tables import overrides


class PostgresOverrideRepository:
    """As `keys.ports.OverrideRepository` describes it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self, target: OverrideTarget) -> Sequence[Override]:
        """Read the overrides of a target in the order of their limits' names, those that have expired included."""
        rows = await read_override_rows(self._connection, target.level, [target.name])
        return to_overrides(rows.get(target.name, ()))

    async def put(self, target: OverrideTarget, override: Override) -> None:
        """Keep an override in place of the one of the same name, if there is one."""
        content = {"limit_document": to_document(override.limit), "expire_time": override.expires_us}
        statement = insert(overrides).values(
            level=target.level.value, target=target.name, limit_name=override.limit.name, **content
        )
        await self._connection.execute(statement.on_conflict_do_update(constraint=overrides.primary_key, set_=content))

    async def delete(self, target: OverrideTarget, limit: str) -> bool:
        """Delete the override of this name. False if there is none."""
        statement = delete(overrides).where(
            overrides.c.level == target.level.value,
            overrides.c.target == target.name,
            overrides.c.limit_name == limit,
        )
        return (await self._connection.execute(statement)).rowcount > 0
