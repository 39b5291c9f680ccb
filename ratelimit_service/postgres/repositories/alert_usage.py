"""What alerts need of the counts in Postgres."""

from collections.abc import Mapping, Sequence
from random import sample
from typing import Any, Final

from sqlalchemy import ARRAY, BigInteger, Text, bindparam, text

from ratelimit_service.alerts.ports import Near, PlanMinute, QuotaFloor
from ratelimit_service.decision.limit import Counting, Window
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.tables import Microseconds
from ratelimit_service.usage.query_range import MINUTE, Level

_KEYS_OF_SUBJECT: Final = 20
"""Keys of one subject that are read: they share its buckets, unless they have overrides of their own."""

_FIRST: Final = bindparam("first", type_=Microseconds)
_LEVELS: Final[Mapping[Window, Level]] = {
    Window.HOUR: Level.HOUR,
    Window.DAY: Level.HOUR,
    Window.WEEK: Level.DAY,
    Window.MONTH: Level.DAY,
    Window.YEAR: Level.DAY,
}
"""The level whose bins make up a window."""

_PLAN_MINUTES: Final = text("""
    SELECT plan, (extract(epoch FROM minute) / 60)::bigint, allowed + denied, denied, degraded
    FROM usage_plan_minute WHERE minute >= :first AND minute <= :last ORDER BY minute
""").bindparams(_FIRST, bindparam("last", type_=Microseconds))

_ACTIVE: Final = text("""
    SELECT DISTINCT s.subject FROM usage_minute m JOIN usage_series s USING (series_id)
    WHERE m.minute >= :first AND s.kind = 'key'
""").bindparams(_FIRST)

_NEAR: Final = {
    (level, counts): text(f"""
        SELECT s.subject
        FROM usage_series s
        JOIN unnest(CAST(:plans AS text[]), CAST(:tokens AS bigint[])) AS f(plan, tokens) ON f.plan = s.plan
        JOIN usage_{level} c ON c.series_id = s.series_id AND c.{level} >= :start
        WHERE s.kind = 'key' AND s.subject = ANY(:subjects)
        GROUP BY s.subject HAVING sum(c.{column}) >= min(f.tokens)
        ORDER BY sum(c.{column}) / min(f.tokens) DESC LIMIT :count
    """).bindparams(  # noqa: S608  no caller's text
        bindparam("start", type_=Microseconds),
        bindparam("plans", type_=ARRAY(Text)),
        bindparam("tokens", type_=ARRAY(BigInteger)),
        bindparam("subjects", type_=ARRAY(Text)),
    )
    for level in (Level.HOUR, Level.DAY)
    for counts, column in ((Counting.COST, "cost"), (Counting.CALLS, "allowed"))
}

_OVERRIDDEN: Final = text("""
    SELECT target FROM overrides
    WHERE level = 'subject' AND target = ANY(:subjects) AND jsonb_exists(limit_document, 'quota')
    UNION
    SELECT k.subject FROM overrides o JOIN keys k ON k.key_id = o.target
    WHERE o.level = 'key' AND k.subject = ANY(:subjects) AND jsonb_exists(o.limit_document, 'quota')
    LIMIT :count
""").bindparams(bindparam("subjects", type_=ARRAY(Text)))

_KEYS: Final = text("""
    SELECT key_id FROM (
        SELECT k.key_id, row_number() OVER (
            PARTITION BY k.subject ORDER BY (o.target IS NULL), k.number
        ) AS position
        FROM keys k
        LEFT JOIN (SELECT DISTINCT target FROM overrides WHERE level = 'key') o ON o.target = k.key_id
        WHERE k.subject = ANY(:subjects) AND k.state <> 'revoked'
    ) ranked WHERE position <= :count
""").bindparams(bindparam("subjects", type_=ARRAY(Text)))


_MAX_NEAR: Final = 10_000
"""Subjects of which some are chosen."""


class PostgresAlertUsage:
    """As `alerts.ports.Usage` describes it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def plan_minutes(self, first: int, last: int) -> Sequence[PlanMinute]:
        """Read the calls of each plan in the minutes with these numbers. Raises StoreUnavailable."""
        async with self._database.reading() as connection:
            rows = await connection.execute(_PLAN_MINUTES, {"first": first * MINUTE, "last": last * MINUTE})
            return [PlanMinute._make(row) for row in rows]

    async def near(self, first: int, floors: Sequence[QuotaFloor], count: int) -> Near:
        """Read keys of subjects that may be near a quota. Raises StoreUnavailable."""
        async with self._database.reading() as connection:
            active = list((await connection.scalars(_ACTIVE, {"first": first * MINUTE})).all())
            if not active:
                return Near([], 0)
            near: set[str] = set()
            for window, start_us, counts in dict.fromkeys((one.window, one.start_us, one.counts) for one in floors):
                same = [floor for floor in floors if (floor.window, floor.counts) == (window, counts)]
                values: dict[str, Any] = {
                    "start": start_us,
                    "plans": [floor.plan for floor in same],
                    "tokens": [max(floor.tokens, 1) for floor in same],
                    "subjects": active,
                    "count": _MAX_NEAR,
                }
                near |= set((await connection.scalars(_NEAR[_LEVELS[window], counts], values)).all())
            values = {"subjects": active, "count": _MAX_NEAR}
            near |= set((await connection.scalars(_OVERRIDDEN, values)).all())
            some = sample(sorted(near), min(count, len(near)))  # others the next time: nobody hides behind many
            values = {"subjects": some, "count": _KEYS_OF_SUBJECT}
            return Near((await connection.scalars(_KEYS, values)).all(), len(near) - len(some))
