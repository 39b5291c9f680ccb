"""How Postgres answers the questions of the console: by indexes and partitions, never by reading everything."""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from sqlalchemy import event

from fixtures.control_plane import ManualClock
from fixtures.usage import add_partitions, connect, microseconds
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.repositories.usage import _SESSION, PostgresUsageSource
from ratelimit_service.usage.query import UsageQueries
from ratelimit_service.usage.query_range import DAY, HOUR, MINUTE
from ratelimit_service.usage.query_request import Dimension, Measure, UsageFilter, UsageRequest

NOW = datetime(2026, 11, 25, 14, 26, 31, tzinfo=UTC)
NOW_US = microseconds(NOW)
SERIES = 4_000
DAYS = 3
GENERATE = """
    INSERT INTO usage_series (digest, kind, key_id, resource, subject, plan, domain, rule)
    SELECT sha256(convert_to(n::text, 'UTF8')), 'key', 'key' || n / 2, CASE n %% 2 WHEN 0 THEN 'list' ELSE 'create' END,
           'subject' || n / 8, 'plan' || n %% 5, '', '' FROM generate_series(1, %(series)s) n;
    INSERT INTO usage_minute
    SELECT %(start)s + minute * interval '1 minute', series_id, 5 + 90000 / (series_id + 9), 1, 5, 0, 0
    FROM generate_series(0, %(minutes)s) minute
    CROSS JOIN LATERAL generate_series(1 + (minute * 7) %% 97, %(series)s, 97) series_id;
    INSERT INTO usage_limit_minute SELECT minute, series_id, 'burst', 1, 0 FROM usage_minute WHERE series_id %% 4 = 0;
    INSERT INTO usage_hour
    SELECT date_trunc('hour', minute, 'UTC'), series_id, sum(allowed), count(*), 5 * count(*), 0, 0
    FROM usage_minute GROUP BY 1, 2 ORDER BY 1;
    INSERT INTO usage_limit_hour SELECT hour, series_id, 'burst', denied, 0 FROM usage_hour WHERE series_id %% 4 = 0;
    INSERT INTO usage_day SELECT date_trunc('day', hour, 'UTC'), series_id, sum(allowed), sum(denied), sum(cost), 0, 0
    FROM usage_hour GROUP BY 1, 2;
    INSERT INTO usage_plan_minute SELECT minute, plan, '', sum(allowed), sum(denied), sum(cost), 0, 0
    FROM usage_minute JOIN usage_series USING (series_id) GROUP BY 1, 2;
    INSERT INTO usage_plan_hour SELECT hour, plan, '', sum(allowed), sum(denied), sum(cost), 0, 0
    FROM usage_hour JOIN usage_series USING (series_id) GROUP BY 1, 2;
"""


@dataclass
class Scan:
    """What Postgres read of one table."""

    table: str
    kind: str
    rows: float


@dataclass
class Plans:
    """Asks questions, and explains the statements that answered them."""

    usage: UsageQueries
    connection: "psycopg.Connection[Any]"
    statements: list[tuple[str, Any]] = field(default_factory=list)

    async def scans(self, request: UsageRequest) -> list[Scan]:
        """Every scan of a table of counts or of series that the answer took."""
        self.statements.clear()
        report = await self.usage.query(request)
        assert report.rows
        found: list[Scan] = []
        with self.connection.transaction():
            self.connection.execute(str(_SESSION).encode())
            for statement, parameters in list(self.statements):
                if "usage_" in statement:
                    explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}".encode()
                    row = self.connection.execute(explain, parameters).fetchone()
                    assert row is not None
                    found += walk(row[0][0]["Plan"])
        return [scan for scan in found if not scan.table.startswith(("usage_coverage", "usage_losses"))]


def walk(node: dict[str, Any]) -> Iterator[Scan]:
    """The scans of a plan, with the rows that were read, those that a filter removed included."""
    if "Relation Name" in node and node["Actual Loops"]:
        read = (
            node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        )
        yield Scan(node["Relation Name"], node["Node Type"], read * node["Actual Loops"])
    for child in node.get("Plans", []):
        yield from walk(child)


@pytest.fixture(scope="module")
def generated_url(migrated_database_url: Callable[[], str]) -> str:
    """The URL of a database with counts of thousands of series over three days, analyzed."""
    url = migrated_database_url()
    start = NOW.replace(hour=0, minute=0, second=0) - timedelta(days=DAYS - 1)
    with connect(url) as connection:
        add_partitions(connection, start, DAYS)
        connection.execute("SET timezone = 'UTC'")
        numbers = {"series": SERIES, "start": start, "minutes": (NOW - start) // timedelta(minutes=1)}
        values = psycopg.ClientCursor(connection).mogrify(GENERATE, numbers)
        connection.execute(values.encode())
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
    return url


@pytest_asyncio.fixture
async def plans(generated_url: str) -> AsyncIterator[Plans]:
    """Questions to it, asked at NOW."""
    database = Database(generated_url)
    with psycopg.connect(generated_url, autocommit=True) as connection:
        found = Plans(UsageQueries(PostgresUsageSource(database), ManualClock(NOW_US)), connection)

        def record(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
            found.statements.append((statement, parameters))

        event.listen(database._engine.sync_engine, "before_cursor_execute", record)
        yield found
    await database.close()


KEY = UsageFilter.of(key="key17")
TODAY = "usage_minute_p20261125"
QUESTIONS = {
    "decisions over time": (UsageRequest(step_us=5 * MINUTE), {"usage_plan_minute_p20261125"}, 5 * 867),
    "who is denied now": (
        UsageRequest(group_by=(Dimension.SUBJECT,), start_us=NOW_US - 5 * MINUTE, top=10, order_by=Measure.DENIED),
        {TODAY, "usage_plan_minute_p20261125"},
        2 * 6 * SERIES / 97 + 5 * 6,  # once to rank all subjects, once for the counts of the best
    ),
    "by which limit": (
        UsageRequest(
            group_by=(Dimension.SUBJECT, Dimension.LIMIT),
            start_us=NOW_US - 5 * MINUTE,
            top=10,
            order_by=Measure.DENIED,
        ),
        {"usage_limit_minute_p20261125"},
        6 * SERIES / 97 / 4 * 1.5,
    ),
    "busiest keys": (
        UsageRequest(group_by=(Dimension.KEY,), top=10),
        {"usage_day_p202611", "usage_hour_p202611", "usage_plan_hour_p202611"},
        1.5 * SERIES,
    ),
    "a key, 6 hours": (UsageRequest(KEY, step_us=5 * MINUTE), {TODAY}, 2 * 361 / 90),
    "a key, a day": (
        UsageRequest(KEY, start_us=NOW_US - DAY, step_us=15 * MINUTE),
        {TODAY, "usage_minute_p20261124"},
        2 * 1450 / 90,
    ),
    "a key by resource": (
        UsageRequest(KEY, (Dimension.RESOURCE,), start_us=NOW_US - DAY),
        {"usage_hour_p202611"},
        2 * 25,
    ),
    "a subject by limit": (
        UsageRequest(UsageFilter.of(subject="subject9"), (Dimension.LIMIT,), start_us=NOW_US - DAY),
        {"usage_limit_hour_p202611"},
        8 * 25,
    ),
    "a plan over time": (
        UsageRequest(UsageFilter.of(plan="plan3"), start_us=NOW_US - DAY, step_us=HOUR),
        {"usage_plan_hour_p202611"},
        5 * 24 * DAYS,
    ),
    "a plan by limit": (
        UsageRequest(UsageFilter.of(plan="plan3"), (Dimension.LIMIT,), start_us=NOW_US - DAY),
        {"usage_limit_hour_p202611"},
        SERIES / 4 * 25,
    ),
    "sparklines of fifty keys": (
        UsageRequest(UsageFilter.of(key=[f"key{n}" for n in range(100, 150)]), (Dimension.KEY,), step_us=5 * MINUTE),
        {TODAY},
        100 * 361 / 90,
    ),
}


@pytest.mark.parametrize("name", QUESTIONS)
async def test_a_question_reads_what_answers_it(plans: Plans, name: str) -> None:
    """Only partitions of the range are read, and of these hardly more rows than the answer is made of."""
    request, tables, bound = QUESTIONS[name]
    scans = [scan for scan in await plans.scans(request) if scan.table != "usage_series"]
    assert {scan.table for scan in scans if scan.rows} <= tables, scans
    assert sum(scan.rows for scan in scans) <= bound * 1.2 + 10, scans


@pytest.mark.parametrize("name", [name for name in QUESTIONS if "key," in name or "a key" in name or "subject" in name])
async def test_some_series_are_found_by_index(plans: Plans, name: str) -> None:
    """A question about some keys or a subject scans no table from end to end, neither counts nor series."""
    scans = await plans.scans(QUESTIONS[name][0])
    assert [scan for scan in scans if scan.kind == "Seq Scan"] == []
    assert sum(scan.rows for scan in scans if scan.table == "usage_series") <= 4 * 100
