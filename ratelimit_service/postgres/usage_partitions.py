"""The partitions of the tables of usage: one a day for minutes, one a month for hours and days. All times are UTC."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Self

from psycopg import AsyncCursor, sql

from ratelimit_service.postgres.usage_tables import LEVELS

KINDS: Final = ("usage", "usage_limit", "usage_plan")
"""First parts of the tables' names; the level is the last."""

_DAY_FORMAT: Final = "%Y%m%d"
_MONTH_FORMAT: Final = "%Y%m"


class Partition(NamedTuple):
    """The time from `start` to before `end` of one level."""

    level: str
    start: datetime
    end: datetime

    @classmethod
    def at(cls, level: str, time: datetime) -> Self:
        """The one that has TIME."""
        day = time.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if level == "minute":
            return cls(level, day, day + timedelta(days=1))
        first = day.replace(day=1)
        return cls(level, first, (first + timedelta(days=32)).replace(day=1))

    @classmethod
    def named(cls, level: str, name: str) -> Self | None:
        """The one that the table NAME is, None for a name that is not ours."""
        _, _, digits = name.rpartition("_p")
        try:
            return cls.at(level, datetime.strptime(digits, _format(level)).replace(tzinfo=UTC))
        except ValueError:
            return None

    def table(self, kind: str) -> str:
        """The name of the table that has it."""
        return f"{kind}_{self.level}_p{self.start.strftime(_format(self.level))}"


async def create_partitions(cursor: AsyncCursor, partitions: Iterable[Partition]) -> None:
    """Create those of PARTITIONS that do not exist yet, for each kind.

    The table is created apart and attached then, which does not lock out those who read and write its parent.
    """
    wanted = {partition.table(kind): (kind, partition) for partition in sorted(partitions) for kind in KINDS}
    if not wanted:
        return
    await cursor.execute("SELECT name FROM unnest(%s::text[]) AS name WHERE to_regclass(name) IS NULL", (list(wanted),))
    for (name,) in await cursor.fetchall():
        kind, partition = wanted[name]
        parent, table = sql.Identifier(f"{kind}_{partition.level}"), sql.Identifier(name)
        await cursor.execute(
            sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING CONSTRAINTS INCLUDING INDEXES)").format(table, parent)
        )
        await cursor.execute(
            sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
                parent, table, sql.Literal(partition.start.isoformat()), sql.Literal(partition.end.isoformat())
            )
        )


async def existing_partitions(cursor: AsyncCursor) -> list[tuple[str, Partition]]:
    """Every partition of the tables of usage, with the name of its table."""
    levels = {f"{kind}_{level}": level for kind in KINDS for level in LEVELS}
    await cursor.execute(
        "SELECT parent.name, child.relname FROM unnest(%s::text[]) AS parent (name)"
        " JOIN pg_inherits ON inhparent = to_regclass(parent.name) JOIN pg_class AS child ON child.oid = inhrelid"
        " ORDER BY child.relname",
        (list(levels),),
    )
    found = [(name, Partition.named(levels[parent], name)) for parent, name in await cursor.fetchall()]
    return [(name, partition) for name, partition in found if partition is not None]


async def drop_partition(cursor: AsyncCursor, name: str) -> None:
    """Drop the table NAME, which is a partition. Locks its parent until the transaction ends."""
    await cursor.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))


def _format(level: str) -> str:
    return _DAY_FORMAT if level == "minute" else _MONTH_FORMAT
