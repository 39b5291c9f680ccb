"""The switch of all limits in Postgres: as the control plane changes it, and as the decision plane reads it."""

from typing import Any, Final

from sqlalchemy import Select, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.decision.enforcement import Switch
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.failures import HardTimeout, translate_failures
from ratelimit_service.postgres.tables import enforcement

_READ_SECONDS: Final = 1.0
_MAX_TEXT: Final = 256
"""Characters of a text that are read: no name and no comment has more bytes. A longer one, which somebody else has
written, must not keep limits from being turned on again."""

_READ: Final[Select[Any]] = select(
    enforcement.c.off_until,
    enforcement.c.update_time,
    func.substr(enforcement.c.actor, 1, _MAX_TEXT).label("actor"),
    func.substr(enforcement.c.comment, 1, _MAX_TEXT).label("comment"),
)


class PostgresEnforcementRepository:
    """As `management.enforcement.EnforcementRepository` describes it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self) -> Switch:
        """Read the switch. Without a row limits refuse."""
        row = (await self._connection.execute(_READ)).one_or_none()
        if row is None:
            return Switch()
        return Switch.of(row.off_until or 0, row.update_time, row.actor, row.comment)

    async def put(self, switch: Switch) -> None:
        """Store the switch."""
        values = {
            "off_until": switch.off_until_us or None,
            "update_time": switch.changed_us,
            "actor": switch.actor,
            "comment": switch.comment,
        }
        statement = insert(enforcement).values(values)
        await self._connection.execute(statement.on_conflict_do_update(constraint=enforcement.primary_key, set_=values))


class PostgresSwitchSource:
    """As `decision.enforcement.SwitchSource` describes it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._timeout = HardTimeout()

    async def read(self) -> Switch:
        """Read the switch. Raises StoreUnavailable."""
        with translate_failures():
            return await self._timeout.run(_READ_SECONDS, self._fetch())

    async def _fetch(self) -> Switch:
        async with self._database.reading() as connection:
            return await PostgresEnforcementRepository(connection).get()
