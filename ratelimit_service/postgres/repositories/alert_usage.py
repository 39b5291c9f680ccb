"""What alerts need of the counts in Postgres."""

from collections.abc import Mapping, Sequence
from random import sample
from typing import Any, Final

from sqlalchemy import ARRAY, BigInteger, Text, bindparam, select, text

from ratelimit_service.alerts.ports import Near, PlanMinute, QuotaFloor
from ratelimit_service.decision.limit import Counting, Window
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.tables import Microseconds
from ratelimit_service.postgres.usage_tables import coverage
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
    WHERE m.minute >= :first AND s.kind = 'key' AND mod(hashtext(s.subject)::bigint + 2147483648, :parts) = :part
    LIMIT :count
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

_MAX_ACTIVE: Final = 50_000
"""Subjects with calls that are considered at a time: of more a part, by a hash of their names."""

_SLICE: Final = 2_000
"""Of them in one query: a list of names is written for Postgres at once, while the event loop waits."""


class PostgresAlertUsage:
    """As `alerts.ports.Usage` describes it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._parts, self._part = 1, 0

    async def plan_minutes(self, first: int, last: int) -> Sequence[PlanMinute]:
        """Read the calls of each plan in the minutes with these numbers. Raises StoreUnavailable."""
        async with self._database.reading() as connection:
            rows = await connection.execute(_PLAN_MINUTES, {"first": first * MINUTE, "last": last * MINUTE})
            return [PlanMinute._make(row) for row in rows]

    async def complete_until(self) -> int | None:
        """Read the time before which all counts are there, None if none is known. Raises StoreUnavailable."""
        async with self._database.reading() as connection:
            return await connection.scalar(select(coverage.c.complete_until))

    async def near(self, first: int, floors: Sequence[QuotaFloor], count: int) -> Near:
        """Read keys of subjects that may be near a quota. Raises StoreUnavailable."""
        parts = self._parts
        active = await self._active(first)
        complete = parts == self._parts == 1
        near: set[str] = set()
        for start in range(0, len(active), _SLICE):
            near |= await self._near(active[start : start + _SLICE], floors)
        some = sample(sorted(near), min(count, len(near)))  # others the next time: nobody hides behind many
        if not some:
            return Near([], 0, complete)
        values = {"subjects": some, "count": _KEYS_OF_SUBJECT}
        async with self._database.reading() as connection:
            return Near((await connection.scalars(_KEYS, values)).all(), len(near) - len(some), complete)

    async def _active(self, first: int) -> Sequence[str]:
        """Subjects with calls since minute FIRST: all, or the next part of them."""
        while True:
            self._part = (self._part + 1) % self._parts
            values = {
                "first": first * MINUTE,
                "parts": self._parts,
                "part": self._part,
                "count": _MAX_ACTIVE + 1,
            }
            async with self._database.reading() as connection:
                active = (await connection.scalars(_ACTIVE, values)).all()
            if len(active) <= _MAX_ACTIVE:
                break
            self._parts *= 2
        if self._parts > 1 and len(active) < _MAX_ACTIVE // 4:
            self._parts //= 2
        return active

    async def _near(self, subjects: Sequence[str], floors: Sequence[QuotaFloor]) -> set[str]:
        """Those of SUBJECTS that may be near a quota."""
        near: set[str] = set()
        async with self._database.reading() as connection:
            for window, start_us, counts in dict.fromkeys((one.window, one.start_us, one.counts) for one in floors):
                same = [floor for floor in floors if (floor.window, floor.counts) == (window, counts)]
                values: dict[str, Any] = {
                    "start": start_us,
                    "plans": [floor.plan for floor in same],
                    "tokens": [max(floor.tokens, 1) for floor in same],
                    "subjects": subjects,
                    "count": _MAX_NEAR,
                }
                near |= set((await connection.scalars(_NEAR[_LEVELS[window], counts], values)).all())
            values = {"subjects": subjects, "count": _MAX_NEAR}
            near |= set((await connection.scalars(_OVERRIDDEN, values)).all())
        return near
