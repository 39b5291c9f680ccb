"""Questions about usage, answered from a real Postgres, against sums made in Python from the same rows."""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
import pytest_asyncio

from fixtures.control_plane import ManualClock
from fixtures.usage import Counted, Series, UsageWriter, add_partitions, connect, microseconds
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.paging import Paging
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.repositories.usage import PostgresUsageSource
from ratelimit_service.usage.query import Counts, Loss, UsageQueries, UsageReport
from ratelimit_service.usage.query_range import DAY, HOUR, LAST_US, MINUTE
from ratelimit_service.usage.query_request import Dimension, Measure, UsageFilter, UsageRequest

NOW = datetime(2026, 11, 25, 14, 26, 31, tzinfo=UTC)
NOW_US = microseconds(NOW)
DAYS = 4
KEYS = [
    Series(key, resource, f"subject-{number % 4}", ("free", "pro", "big")[number % 3])
    for number, key in enumerate(f"key{n:02}" for n in range(12))
    for resource in ("orders.create", "orders.list", "")
]
RULES = [Series(domain=domain, rule=rule) for domain in ("edge", "mesh") for rule in ("path=/v1", "path=/v1/user=*")]
FIELD = {
    Dimension.KEY: "key",
    Dimension.SUBJECT: "subject",
    Dimension.PLAN: "plan",
    Dimension.RESOURCE: "resource",
    Dimension.DOMAIN: "domain",
    Dimension.RULE: "rule",
}
K, S, P, R, L, D, RULE = Dimension


def make_rows(random: Random) -> list[Counted]:
    """Random counts: many in the last hours, some in the days before, several of one minute and series."""
    rows = []
    for _ in range(3_000):
        age = random.choice([random.random() * 2, random.random() * 24, random.random() * 24 * (DAYS - 1)])
        minute = (NOW - timedelta(hours=age)).replace(second=0, microsecond=0)
        series = random.choice(KEYS if random.random() < 0.8 else RULES)
        limits = tuple(
            (name, random.randrange(1, 5), random.randrange(3))
            for name in ("burst", "daily", "KEY_REVOKED")
            if random.random() < 0.3
        )
        denied = sum(found for _, found, _ in limits)
        counts = Counts(
            random.randrange(50), denied, random.randrange(-2, 90), random.randrange(3), random.randrange(2)
        )
        rows.append(Counted(minute, series, counts, limits))
    return rows


ROWS = make_rows(Random(20261125))


@pytest.fixture(scope="module")
def usage_url(migrated_database_url: Callable[[], str]) -> str:
    """The URL of a database that holds ROWS, how far they are complete, and a loss."""
    url = migrated_database_url()
    with connect(url) as connection:
        add_partitions(connection, NOW - timedelta(days=DAYS), DAYS + 2)
        UsageWriter(connection).write(ROWS)
        minute = NOW.replace(second=0, microsecond=0)
        connection.execute("INSERT INTO usage_coverage VALUES (true, %s)", (minute - timedelta(minutes=2),))
        connection.execute(
            "INSERT INTO usage_losses (time, start_time, end_time, cause, calls) VALUES (%s, %s, %s, 'gone', 7)",
            (NOW, NOW - timedelta(hours=5), NOW - timedelta(hours=4)),
        )
        connection.execute("INSERT INTO key_last_used VALUES ('key01', %s)", (minute,))
    return url


@pytest_asyncio.fixture
async def usage(usage_url: str) -> AsyncIterator[UsageQueries]:
    """Questions to that database, asked at NOW."""
    database = Database(usage_url, pool_size=2, pool_overflow=0)
    yield UsageQueries(PostgresUsageSource(database), ManualClock(NOW_US))
    await database.close()


def expected(report: UsageReport, request: UsageRequest) -> dict[tuple[int, tuple[str, ...]], Counts]:
    """The rows that the answer must have, from ROWS: all groups, without regard to top and pages."""
    within, found = report.range, defaultdict[tuple[int, tuple[str, ...]], Counts](Counts)
    for row in ROWS:
        time_us = microseconds(row.minute)
        if not within.start_us <= time_us < within.end_us or not matches(row.series, request):
            continue
        start = time_us // within.step_us * within.step_us if within.step_us else within.start_us
        for limit, counts in parts(row, request):
            values = tuple(limit if name is L else getattr(row.series, FIELD[name]) for name in request.group_by)
            found[start, values] = found[start, values].plus(counts)
    totals = defaultdict[tuple[str, ...], Counts](Counts)
    for (_, values), counts in found.items():
        totals[values] = totals[values].plus(counts)
    outcome = request.where.outcome
    kept = {values for values, total in totals.items() if outcome is None or total.get(outcome)}
    return {place: counts for place, counts in found.items() if any(counts) and place[1] in kept}


def matches(series: Series, request: UsageRequest) -> bool:
    """Whether a series is asked for."""
    wanted = request.dimensions
    if (wanted & {K, S, P, R} and series.domain) or (wanted & {D, RULE} and not series.domain):
        return False
    return all(
        getattr(series, FIELD[name]) in values
        for name, values in request.where.values.items()
        if values and name is not L
    )


def parts(row: Counted, request: UsageRequest) -> Iterable[tuple[str, Counts]]:
    """The counts of a row, or those of each limit."""
    if not request.by_limit:
        return [("", row.counts)]
    wanted = request.where.get(L)
    return [
        (name, Counts(denied=denied, shadow_denied=shadow))
        for name, denied, shadow in row.limits
        if not wanted or name in wanted
    ]


def add(counts: Iterable[Counts]) -> Counts:
    """The sum."""
    total = Counts()
    for one in counts:
        total = total.plus(one)
    return total


async def check_everything(usage: UsageQueries, request: UsageRequest) -> UsageReport:
    """Ask, and compare all rows, the total and the number of groups with Python's."""
    report = await usage.query(request, Paging(page_size=1000))
    assert report.next_page_token == ""
    wanted = expected(report, request)
    assert {(row.start_us, row.group): row.counts for row in report.rows} == wanted
    assert report.total == add(wanted.values())
    assert report.groups == len({values for _, values in wanted})
    return report


ANY_OF_KEYS = [(), (K,), (S,), (P,), (R,), (L,), (K, R), (S, K), (P, L), (K, L, R), (S, P, R)]
ANY_OF_RULES = [(D,), (RULE,), (D, RULE), (L, D), (RULE, L)]
FILTERS = [
    UsageFilter(),
    UsageFilter.of(key="key01"),
    UsageFilter.of(key=["key01", "key02", "nobody"], resource="orders.create"),
    UsageFilter.of(subject="subject-1", plan=["free", "pro"]),
    UsageFilter.of(plan="free"),
    UsageFilter.of(resource="", limit=["burst", "KEY_REVOKED"]),
    UsageFilter.of(limit="daily"),
    UsageFilter.of(Measure.DENIED),
    UsageFilter.of(Measure.SHADOW_DENIED, plan="free", subject="subject-0"),
    UsageFilter.of(key="nobody"),
]


@pytest.mark.parametrize("where", FILTERS, ids=range(len(FILTERS)))
@pytest.mark.parametrize("group_by", ANY_OF_KEYS, ids=str)
async def test_calls_with_keys(usage: UsageQueries, group_by: tuple[Dimension, ...], where: UsageFilter) -> None:
    """Each filter with each grouping, by hours and in one bin, gives what Python adds up from the same rows."""
    for step_us in (0, 6 * HOUR):
        request = UsageRequest(where, group_by, start_us=NOW_US - 2 * DAY, step_us=step_us)
        await check_everything(usage, request)


@pytest.mark.parametrize("where", [UsageFilter(), UsageFilter.of(domain="edge"), UsageFilter.of(rule="path=/v1")])
@pytest.mark.parametrize("group_by", ANY_OF_RULES, ids=str)
async def test_descriptors(usage: UsageQueries, group_by: tuple[Dimension, ...], where: UsageFilter) -> None:
    """What rules decided is filtered and grouped by domain, rule and limit alone."""
    for step_us in (0, 5 * MINUTE):
        await check_everything(usage, UsageRequest(where, group_by, start_us=NOW_US - 6 * HOUR, step_us=step_us))


@pytest.mark.parametrize(
    ("back_us", "step_us", "level"),
    [
        (2 * HOUR, 0, "minute"),
        (6 * HOUR, 5 * MINUTE, "minute"),
        (6 * HOUR, 0, "hour"),
        (DAY, HOUR, "hour"),
        (3 * DAY, 12 * HOUR, "hour"),
        (4 * DAY, 0, "day"),
        (4 * DAY, DAY, "day"),
        (4 * DAY, 2 * DAY, "day"),
    ],
)
async def test_every_level_adds_up(usage: UsageQueries, back_us: int, step_us: int, level: str) -> None:
    """The level is that of the step or range; bins begin at multiples of the step; the range only ever grows."""
    for group_by in ((), (P,), (K,)):
        request = UsageRequest(group_by=group_by, start_us=NOW_US - back_us, step_us=step_us)
        report = await check_everything(usage, request)
        within = report.range
        assert within.level.value == level
        assert within.start_us <= NOW_US - back_us
        assert within.end_us >= NOW_US
        assert all(row.start_us % (step_us or within.level.us) == 0 for row in report.rows)


async def test_a_top_and_the_others_are_everything(usage: UsageQueries) -> None:
    """The groups with the highest measure come first, and with the row of others they add up to the total."""
    for measure in Measure:
        for step_us in (0, HOUR):
            request = UsageRequest(
                group_by=(K, R), start_us=NOW_US - DAY, step_us=step_us, top=5, order_by=measure, others=True
            )
            report = await usage.query(request)
            wanted = expected(report, request)
            totals = defaultdict[tuple[str, ...], Counts](Counts)
            for (_, values), counts in wanted.items():
                totals[values] = totals[values].plus(counts)
            best = sorted(totals, key=lambda values: (-totals[values].get(measure), values))[:5]
            assert list(dict.fromkeys(row.group for row in report.rows if not row.others)) == best
            assert report.total == add(row.counts for row in report.rows) == add(wanted.values())
            assert report.groups == len(totals)
            by_bin = defaultdict[int, Counts](Counts)
            for row in report.rows:
                by_bin[row.start_us] = by_bin[row.start_us].plus(row.counts)
            for start_us, counts in by_bin.items():
                assert counts == add(found for (start, _), found in wanted.items() if start == start_us)


@pytest.mark.parametrize("step_us", [0, HOUR])
async def test_pages_are_the_whole(usage: UsageQueries, step_us: int) -> None:
    """Pages continue one another in the order of the groups, each with the same range and total."""
    request = UsageRequest(group_by=(S, K), start_us=NOW_US - DAY, step_us=step_us)
    whole = await usage.query(request)
    rows, token, pages = [], "", 0
    while True:
        page = await usage.query(request, Paging(5, token))
        assert (page.range, page.total, page.groups) == (whole.range, whole.total, whole.groups)
        rows += page.rows
        pages += 1
        token = page.next_page_token
        if not token:
            break
    assert (rows, pages) == (list(whole.rows), 3)
    groups = list(dict.fromkeys(row.group for row in rows))
    assert groups == sorted(groups)


async def test_a_page_keeps_its_range_as_time_passes(usage: UsageQueries, usage_url: str) -> None:
    """Later pages have the range of the first, whatever the time; another question may not use their token."""
    request = UsageRequest(group_by=(K,), step_us=5 * MINUTE)
    first = await usage.query(request, Paging(5))
    database = Database(usage_url)
    later = UsageQueries(PostgresUsageSource(database), ManualClock(NOW_US + HOUR))
    second = await later.query(request, Paging(5, first.next_page_token))
    assert second.range == first.range
    with pytest.raises(InvalidArgument, match="page_token"):
        await later.query(UsageRequest(group_by=(S,), step_us=5 * MINUTE), Paging(5, first.next_page_token))
    await database.close()


@pytest.mark.parametrize(
    "position",
    [
        "no JSON",
        "[]",
        "[1]",
        '{"a": 1}',
        '[0, 86400000000, "week", "x"]',
        '["a", "b", "day", "x"]',
        '[null, 86400000000, "day", "x"]',
        '[0, 86400000000, "day"]',
        '[0, 86400000000, "day", 5]',
        '[0, 86400000000, "day", "a", "b"]',
        '[0, 86400000000, "day", "\\u0000"]',
        '[0, 86400000000, "day", "\\ud800"]',
        '[0, 1000000000000000000000000000000, "day", "x"]',
        '[1e999, 1e999, "day", "x"]',
        '[0, 252000000000000000, "minute", "x"]',
        '[86400000000, 0, "day", "x"]',
        f'[{"9" * 5_000}, 1, "day", "x"]',
        f'["{"9" * 5_000}", 1, "day", "x"]',
        '[0.5, 86400000000, "day", "x"]',
        "[" * 6_000,
        '[0, 86400000000, "day", ' + '{"a":' * 3_000,
    ],
)
async def test_a_forged_page_token_is_refused(usage: UsageQueries, position: str) -> None:
    """A token with a right check around whatever it may be is an invalid argument, and reaches no table."""
    request = UsageRequest(group_by=(K,), step_us=5 * MINUTE)
    token = Paging(1).page([1, 2], [position, ""], "usage", repr(request)).next_page_token
    with pytest.raises(InvalidArgument, match="page_token"):
        await usage.query(request, Paging(5, token))


@pytest.mark.parametrize("step_us", [0, MINUTE, 366 * DAY])
async def test_a_range_at_the_end_of_time(usage: UsageQueries, step_us: int) -> None:
    """The last time that may be asked for can be, though its bin ends later; a later one is refused."""
    assert (await usage.query(UsageRequest(end_us=LAST_US, step_us=step_us))).rows == []
    with pytest.raises(InvalidArgument, match="end_time"):
        await usage.query(UsageRequest(end_us=LAST_US + 1, step_us=step_us))


async def test_many_bins_make_small_pages(usage: UsageQueries) -> None:
    """However many groups a page may have, its rows are bounded; what does not fit follows on the next page."""
    request = UsageRequest(group_by=(K,), start_us=NOW_US - DAY, step_us=MINUTE)
    page = await usage.query(request, Paging(1000))
    assert len({row.group for row in page.rows}) == 3  # 5,000 rows / 1,441 bins
    assert page.next_page_token
    with pytest.raises(InvalidArgument, match="top: is 4 groups of 1441 bins"):
        await usage.query(UsageRequest(group_by=(K,), start_us=NOW_US - DAY, step_us=MINUTE, top=4))


@pytest.mark.parametrize("hours", [3, 6, 30, 71])
@pytest.mark.parametrize("group_by", [(K,), (K, S, P), (R,)])
@pytest.mark.parametrize("measure", [Measure.CALLS, Measure.DENIED, Measure.COST])
async def test_the_best_of_some_hours(
    usage: UsageQueries, monkeypatch: pytest.MonkeyPatch, hours: int, group_by: tuple[Dimension, ...], measure: Measure
) -> None:
    """The best are those of the hours, however much others have in the rest of their days; all groups are counted."""
    for bounds in (1_000, 4, 1):  # the fewer, the more often all groups have to be read
        monkeypatch.setattr("ratelimit_service.postgres.repositories.usage.MAX_BOUNDS", bounds)
        for top in (1, 3):
            request = UsageRequest(group_by=group_by, start_us=NOW_US - hours * HOUR, top=top, order_by=measure)
            report = await usage.query(request)
            rows = expected(report, request)
            order = sorted(rows, key=lambda place: (-rows[place].get(measure), place[1]))
            assert [(row.group, row.counts) for row in report.rows] == [(key[1], rows[key]) for key in order[:top]]
            assert report.groups == len(rows)


async def test_what_is_known_about_completeness(usage: UsageQueries) -> None:
    """The answer has the time that the flush wrote down, and the losses that overlap its range."""
    report = await usage.query(UsageRequest())
    minute_us = NOW_US // MINUTE * MINUTE
    assert report.complete_until_us == minute_us - 2 * MINUTE
    assert report.losses == [Loss(NOW_US - 5 * HOUR, NOW_US - 4 * HOUR, "gone", 7)]
    assert (await usage.query(UsageRequest(start_us=NOW_US - HOUR))).losses == []


async def test_last_use(usage: UsageQueries) -> None:
    """The last minute of each key that was used, and nothing for others."""
    assert await usage.last_used(["key01", "key02"]) == {"key01": NOW_US // MINUTE * MINUTE}
    assert await usage.last_used([]) == {}


async def test_series_for_charts_have_every_bin(usage: UsageQueries) -> None:
    """A chart's series has one entry for each bin, zeros included."""
    report = await usage.query(UsageRequest(UsageFilter.of(key="key01"), (K,), step_us=5 * MINUTE))
    series = report.series()
    assert list(series) == [("key01",)]
    assert len(series["key01",]) == report.range.bins == 73
    assert add(series["key01",]) == report.total


async def test_a_database_without_counts_answers_with_nothing(database: Database) -> None:
    """Before the first flush there are no rows, the total is zero, and nothing is known to be complete."""
    usage = UsageQueries(PostgresUsageSource(database), ManualClock(NOW_US))
    for group_by in ((), (K,), (P,), (L,)):
        for step_us in (0, HOUR):
            report = await usage.query(UsageRequest(group_by=group_by, step_us=step_us))
            assert (report.rows, report.total, report.groups) == ([], Counts(), 0)
            assert report.complete_until_us is None


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (UsageRequest(start_us=NOW_US, end_us=NOW_US), "start_time"),
        (UsageRequest(start_us=-1), "start_time"),
        (UsageRequest(end_us=2**62), "end_time"),
        (UsageRequest(step_us=MINUTE + 1), "step"),
        (UsageRequest(step_us=-MINUTE), "step"),
        (UsageRequest(step_us=400 * DAY), "step"),
        (UsageRequest(start_us=NOW_US - 3 * DAY, step_us=MINUTE), "step"),
        (UsageRequest(group_by=(K, K)), "group_by"),
        (UsageRequest(group_by=(K, D)), "group_by"),
        (UsageRequest(UsageFilter.of(rule="x"), (S,)), "group_by"),
        (UsageRequest(top=3), "top"),
        (UsageRequest(group_by=(K,), top=1001), "top"),
        (UsageRequest(group_by=(K,), others=True), "others"),
        (UsageRequest(UsageFilter.of(Measure.DENIED), (K,), top=1, others=True), "others"),
        (UsageRequest(UsageFilter.of(Measure.ALLOWED), (L,)), "filter.outcome"),
        (UsageRequest(UsageFilter.of(Measure.COST)), "filter.outcome"),
        (UsageRequest(UsageFilter.of(key=[str(n) for n in range(101)])), "filter.key_ids"),
        (UsageRequest(UsageFilter.of(subject=["a", "b\0"])), "filter.subjects[1]"),
        (UsageRequest(UsageFilter.of(subject="\ud800")), "filter.subjects[0]"),
    ],
)
async def test_what_cannot_be_answered(usage: UsageQueries, request_: UsageRequest, field: str) -> None:
    """A request that is out of bounds or contradicts itself names the field."""
    with pytest.raises(InvalidArgument) as caught:
        await usage.query(request_)
    assert [violation.field for violation in caught.value.violations] == [field]
