"""Pages of keys, subjects, plans and rules: their figures are the counts, and the last of them are those of now."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest

from console.browser import Browser
from console.conftest import Manage
from console.test_overview import Counter, base, counter, now, overview_server, server, settled, text_of
from fixtures.usage import Counted, Series
from ratelimit_service.console.charts import bin_starts, series_of, spark
from ratelimit_service.console.complete import complete_minute
from ratelimit_service.decision.limit import Limit, Quota, TokenBucket, Window
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.management.keys import Key, KeyDraft
from ratelimit_service.management.plans import PlanDraft
from ratelimit_service.usage.query import Counts
from ratelimit_service.usage.query_range import HOUR

__all__ = ["base", "counter", "overview_server", "server"]

MINUTE = timedelta(minutes=1)
MINUTE_US = 60_000_000
SECOND = 1_000_000

MakeKey = Callable[..., Key]


@pytest.fixture
def key(manage: Manage[Key]) -> MakeKey:
    """Makes a key of a subject, on a plan that is made if there is none."""

    def make(subject: str, plan: str = "free") -> Key:
        async def create(services: object) -> Key:
            draft = KeyDraft(plan=plan, subject=subject, description="", expires_us=None, labels={})
            return (await services.keys.create("test", draft))[0]  # type: ignore[attr-defined]

        return manage(create)

    return make


@pytest.fixture
def plan(manage: Manage[object]) -> Callable[[str], None]:
    """Makes a plan with a bucket and a quota."""

    def make(name: str) -> None:
        limits = (Limit("burst", TokenBucket(200, 100, SECOND)), Limit("daily", Quota(1_000, Window.DAY)))
        draft = PlanDraft(name=name, limits=limits, on_store_failure=OnStoreFailure.LOCAL, description="")
        manage(lambda services: services.plans.create("test", draft))

    return make


def chart_of(page: str) -> list[tuple[int, list[float]]]:
    """The bars of a chart: where each begins, in seconds since 1970, and its rates."""
    found = re.findall(r'<tr data-t="(\d+)" data-v="([^"]+)">', page)
    return [(int(at), [float(value) for value in values.split()]) for at, values in found]


def section(page: str, heading: str) -> str:
    """A section of a page, by the id of its heading."""
    found = re.search(rf'aria-labelledby="{heading}".*?</section>', page, re.DOTALL)
    assert found, heading
    return found[0]


def test_calls_of_minutes_ago_are_in_the_chart(admin: Browser, counter: Counter, key: MakeKey) -> None:
    """Calls of two to four minutes ago stand in the chart, over the part of the last bin that has elapsed."""
    made = key("recent")
    series = Series(key=made.key_id, resource="orders", subject="recent", plan="of-recent")
    counter.add(*(Counted(now() - ago * MINUTE, series, Counts(54, 6, 54), (("burst", 6, 0),)) for ago in (2, 3, 4)))
    path = f"/keys/{made.key_id}?range=6h"
    page = settled(admin, lambda page: "refused now" in page, path)
    assert "162 allowed, 18 refused (10 %) in this time." in text_of(page)
    assert "10 % refused now" in text_of(page)
    end = re.search(r'data-step="300" data-end="(\d+)"', page)
    assert end
    bars = chart_of(page)
    ends = [at for at, _ in bars[1:]] + [int(end[1])]
    calls = sum((values[0] + values[1]) * (until - at) for (at, values), until in zip(bars, ends, strict=True))
    assert calls == pytest.approx(180, rel=1e-3)  # rates times lengths are the calls, so the last bin is not diluted
    if ends[-1] - bars[-1][0] < 300:
        assert "so far UTC" not in page
        assert "the last one of" in text_of(page)
    resources = text_of(section(page, "h-resources"))
    assert re.search(r"orders burst 162 18 10 %", resources)


def test_the_chart_of_a_new_key_begins_with_it(admin: Browser, counter: Counter, key: MakeKey) -> None:
    """Of a key that was made just now an hour by minutes is offered, and no empty bins of the time before."""
    made = key("new-key")
    page = admin.get(f"/keys/{made.key_id}").text
    assert re.search(r'aria-current="true">1 h</a>', section(page, "h-calls"))
    assert "No calls in the last 1 h" in page
    series = Series(key=made.key_id, resource="r", subject="new-key", plan="of-new-key")
    counter.add(Counted(now() - 2 * MINUTE, series, Counts(60, 0, 60)))
    page = settled(admin, lambda page: "tbl-calls" in page, f"/keys/{made.key_id}")
    assert len(chart_of(page)) <= 4
    assert chart_of(page)[0][1][0] == pytest.approx(1)


@pytest.mark.parametrize("late", [0, 1, 7, 299])
def test_a_chart_ends_with_the_bin_of_now(late: int) -> None:
    """The last bin ends with the last complete minute, whatever the time; all others are whole, and none is missing."""
    end_us = 1_000 * 5 * MINUTE_US + (late % 5) * MINUTE_US
    starts = bin_starts(end_us, 6 * HOUR, 5 * MINUTE_US)
    series = series_of({start: Counts(300) for start in starts}, Counts(60 * (late % 5 or 5)), starts, end_us)
    assert len(series.bins) == 72
    assert series.end_us == end_us
    assert [one.allowed for one in series.bins] == pytest.approx([1.0] * 72)
    assert series.short_us == (late % 5) * MINUTE_US


def test_a_sparkline_goes_on_as_it_is_now() -> None:
    """The last bin of a sparkline has the height of its rate, and counts as what it is."""
    drawn = spark([Counts(100), Counts(10)], 10 * MINUTE_US, MINUTE_US)
    assert drawn.area == "M0 0V100h1V100h1V0z"
    assert drawn.total == Counts(110)


def test_a_minute_is_complete_when_it_has_arrived() -> None:
    """Figures end where counts have arrived, or a minute and a quarter ago while nothing is late."""
    minute, now_us = 60 * SECOND, 1_000 * 60 * SECOND
    assert complete_minute(now_us, now_us - minute, 0) == now_us - minute
    assert complete_minute(now_us, now_us - 600 * minute, 0) == now_us - 2 * minute
    assert complete_minute(now_us, now_us - 600 * minute, 700 * minute) == now_us - 600 * minute
    assert complete_minute(now_us, 0, None) == now_us - 2 * minute
