"""What raising quotas by usage needs of Postgres."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from sqlalchemy import ARRAY, Text, bindparam, select, text
from sqlalchemy.dialects.postgresql import insert

from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.lease import PostgresLease
from ratelimit_service.postgres.tables import Microseconds
from ratelimit_service.postgres.usage_tables import store_markers
from ratelimit_service.usage.ports import Term
from ratelimit_service.usage.query_range import Level
from ratelimit_service.usage.quota_raise import Cost, LastUsed, PlanQuota

# Lax, and compared as texts: what was written past the API must harm its own row alone.
_PLAN_QUOTAS: Final = text("""
    SELECT p.name, v.version, v.version = p.version, v.create_time, q ->> 'name', coalesce(q ->> 'resource', '*')
    FROM plans p JOIN plan_versions v ON v.plan_id = p.plan_id AND v.version <= p.version,
        LATERAL jsonb_path_query(v.limits, 'lax $[*] ? (exists(@.quota))') AS q
    WHERE p.delete_time IS NULL
    ORDER BY p.name, v.version DESC
""").columns(create_time=Microseconds)

_USED: Final = text("""
    SELECT last_used, key_id FROM key_last_used
    WHERE last_used >= :since AND (last_used, key_id) < (:used, :key_id)
    ORDER BY last_used DESC, key_id DESC LIMIT :count
""").bindparams(bindparam("since", type_=Microseconds), bindparam("used", type_=Microseconds))

_COSTS: Final = {
    level: text(f"""
        SELECT s.subject, s.key_id, s.plan, s.resource, sums.cost, sums.allowed
        FROM (
            SELECT c.series_id, sum(c.cost)::bigint AS cost, sum(c.allowed)::bigint AS allowed
            FROM usage_series n JOIN usage_{level} c ON c.series_id = n.series_id AND c.{level} >= :since
            WHERE n.kind = 'key' AND n.subject = ANY(:subjects) GROUP BY c.series_id
        ) AS sums JOIN usage_series s ON s.series_id = sums.series_id
    """).bindparams(  # noqa: S608  no caller's text
        bindparam("since", type_=Microseconds), bindparam("subjects", type_=ARRAY(Text))
    )
    for level in (Level.HOUR, Level.DAY)
}

_KEY_IDS: Final = text(
    "SELECT DISTINCT key_id FROM usage_series WHERE kind = 'key' AND subject = ANY(:subjects)"
).bindparams(bindparam("subjects", type_=ARRAY(Text)))

_END: Final = LastUsed(250_000_000_000_000_000, "")  # in the year 9892, after all


class PostgresQuotaUsage:
    """As `usage.quota_raise.QuotaUsage` describes it. Writes while the LEASE is held."""

    def __init__(self, database: Database, lease: PostgresLease) -> None:
        self._database = database
        self._lease = lease

    async def markers(self) -> Mapping[str, str]:
        """Read the markers that were kept, by tag. Raises StoreUnavailable."""
        async with self._database.reading() as connection:
            rows = await connection.execute(select(store_markers.c.tag, store_markers.c.marker))
            return {row.tag: row.marker for row in rows}

    async def keep_markers(self, term: Term, markers: Mapping[str, str]) -> None:
        """Keep these. Raises StoreUnavailable and LeaseLost."""
        statement = insert(store_markers).values([{"tag": tag, "marker": text} for tag, text in markers.items()])
        statement = statement.on_conflict_do_update(index_elements=["tag"], set_={"marker": statement.excluded.marker})
        async with self._lease.writing(self._database, term) as connection:
            await connection.execute(statement)

    async def plan_quotas(self) -> Mapping[tuple[str, str], PlanQuota]:
        """Read the quotas of the plans in force, with the time of the first version since which each is there."""
        quotas: dict[tuple[str, str], PlanQuota] = {}
        versions: dict[tuple[str, str], int] = {}
        async with self._database.reading() as connection:
            for plan, version, in_force, time_us, limit, pattern in await connection.execute(_PLAN_QUOTAS):
                name = (plan, limit)
                if in_force:
                    quotas[name] = PlanQuota(pattern, time_us)
                elif versions.get(name) == version + 1:
                    quotas[name] = quotas[name]._replace(since_us=time_us)
                else:
                    continue
                versions[name] = version
        return quotas

    async def used_keys(self, since_us: int, before: LastUsed | None, count: int) -> Sequence[LastUsed]:
        """Read at most COUNT keys used since a time, those used last first. Raises StoreUnavailable."""
        used_us, key_id = before or _END
        values = {"since": since_us, "used": used_us, "key_id": key_id, "count": count}
        async with self._database.reading() as connection:
            statement = _USED.columns(last_used=Microseconds, key_id=Text)
            return [LastUsed._make(row) for row in await connection.execute(statement, values)]

    async def key_ids(self, subjects: Collection[str]) -> set[str]:
        """Read the keys of these subjects that have ever been used. Raises StoreUnavailable."""
        async with self._database.reading() as connection:
            return set((await connection.scalars(_KEY_IDS, {"subjects": list(subjects)})).all())

    async def costs(self, subjects: Collection[str], since_us: int, level: Level) -> Sequence[Cost]:
        """Read what the keys of these subjects cost since a time. Raises StoreUnavailable."""
        values = {"since": since_us, "subjects": list(subjects)}
        async with self._database.reading() as connection:
            return [Cost._make(row) for row in await connection.execute(_COSTS[level], values)]
