"""Pages of keys, subjects, plans and rules: their figures are the counts, and the last of them are those of now."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest

from console.browser import Browser
from console.conftest import Manage
from console.test_overview import Counter, base, counter, now, overview_server, server, settled, text_of
from fixtures.served import Server
from fixtures.usage import Counted, Series, connect
from ratelimit_service.console.charts import bin_starts, series_of, spark
from ratelimit_service.console.complete import complete_minute
from ratelimit_service.decision.limit import Limit, Quota, TokenBucket, Window
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.management.keys import Key, KeyDraft
from ratelimit_service.management.plans import PlanChanges, PlanDraft
from ratelimit_service.usage.query import Counts
from ratelimit_service.usage.query_range import HOUR

__all__ = ["base", "counter", "overview_server", "server"]

MINUTE = timedelta(minutes=1)
MINUTE_US = 60_000_000
SECOND = 1_000_000

MakeKey = Callable[..., Key]
MakePlan = Callable[[str], None]


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
def plan(manage: Manage[object]) -> MakePlan:
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


def test_the_list_of_keys_has_their_calls(admin: Browser, counter: Counter, key: MakeKey) -> None:
    """Each key of the list has the calls and the share refused of its own last six hours."""
    busy, idle = key("listed-busy"), key("listed-idle")
    series = Series(key=busy.key_id, resource="r", subject="listed-busy", plan="of-listed")
    counter.add(*(Counted(now() - ago * MINUTE, series, Counts(30, 10, 30)) for ago in (3, 90, 340)))
    page = settled(admin, lambda page: "25 %" in page, "/keys?q=listed-")
    rows = {row.split("</span></a>")[0][-16:]: row for row in page.split("<tr")[2:]}
    assert "25 %" in rows[busy.key_id]
    assert re.search(r'aria-label="at most [^"]* calls per second, refused', rows[busy.key_id])
    assert "%" not in text_of(rows[idle.key_id])


def test_a_subject_has_the_shares_of_its_keys(admin: Browser, counter: Counter, key: MakeKey, plan: MakePlan) -> None:
    """The calls of a subject are those of its keys together, each with its share, and its quota has a forecast."""
    plan("of-shares")
    first, second = key("shares", "of-shares"), key("shares", "of-shares")
    for made, calls in ((first, 90), (second, 30)):
        series = Series(key=made.key_id, resource=f"r{calls}", subject="shares", plan=f"of-shares-{calls}")
        counter.add(*(Counted(now() - ago * MINUTE, series, Counts(calls, 0, calls)) for ago in (2, 4)))
    page = settled(admin, lambda page: "75 %" in page, "/subject?name=shares")
    shown = text_of(page)
    assert "240 allowed, 0 refused (0 %) in this time." in shown
    keys = section(page, "h-keys")
    assert re.search(rf"{first.key_id}.*?75 %.*?0 %", keys, re.DOTALL)
    assert re.search(rf"{second.key_id}.*?25 %.*?0 %", keys, re.DOTALL)
    assert "0 of 1,000" in text_of(section(page, "h-quota"))  # the bucket is untouched: nothing was really called


def test_plans_have_their_keys_and_refusals(
    admin: Browser, counter: Counter, key: MakeKey, plan: MakePlan, manage: Manage[object]
) -> None:
    """A plan has the exact count of keys that are in use and of revoked ones, and the share refused of 24 hours."""
    plan("counted-plan")
    keys = [key("counted", "counted-plan") for _ in range(4)]
    manage(lambda services: services.keys.revoke("test", keys[0].key_id))
    series = Series(key=keys[1].key_id, resource="r", subject="counted", plan="counted-plan")
    counter.add(Counted(now() - 30 * MINUTE, series, Counts(150, 50, 150)))
    row = next(row for row in admin.get("/plans").text.split("<tr") if "/plans/counted-plan" in row)
    assert re.search(r"3 and 1 revoked 25 % of 200", text_of(row))
    assert "3 keys and 1 revoked" in text_of(admin.get("/plans/counted-plan").text)


def test_versions_of_a_plan_can_be_rolled_back(
    admin: Browser, viewer: Browser, plan: MakePlan, manage: Manage[object]
) -> None:
    """Each version has the limits that it changed; an earlier one is put in force again by the editor, from a draft."""
    plan("versioned")
    for refill in (150, 120):
        limits = (Limit("burst", TokenBucket(200, refill, SECOND)), Limit("daily", Quota(1_000, Window.DAY)))
        changes = PlanChanges(limits=limits)
        manage(lambda services, changes=changes: services.plans.update("test", "versioned", changes))
    versions = section(admin.get("/plans/versioned").text, "h-versions")
    assert re.search(r"v3 in force .* burst 200, \+150/s 200, \+120/s .* v2", text_of(versions))
    assert re.search(r"v1 \S+ the first version Roll back to v1…", text_of(versions))
    assert "Roll back" not in section(viewer.get("/plans/versioned").text, "h-versions")
    draft = admin.get("/plans/versioned/edit?from=1").text
    assert re.search(r'name="l0.refill_tokens" value="100"', draft)


def test_rules_have_their_hits(admin: Browser, counter: Counter) -> None:
    """A domain has the hits and refusals of each of its rules, and the list those of each domain."""
    document = "domain: hit\ndescriptors:\n  - key: ip\n    limits: [{name: a, quota: {amount: 5, window: DAY}}]\n"
    assert admin.submit("/rules/edit", document=document, do="save").status_code == 303
    ip, other = Series(domain="hit", rule="ip"), Series(domain="hit", rule="path=/a/ip")
    counter.add(
        Counted(now() - 3 * MINUTE, ip, Counts(60, 20, 60), (("a", 20, 0),)),
        Counted(now() - 5 * MINUTE, other, Counts(40, 0, 40, 7)),
    )
    page = settled(admin, lambda page: "path=/a/ip" in page, "/rules/domain?name=hit")
    hits = text_of(section(page, "h-hits"))
    assert re.search(r"ip 80 20 25 % 0 path=/a/ip 40 0 0 % 7", hits)
    row = next(row for row in admin.get("/rules").text.split("<tr") if "name=hit" in row)
    assert re.search(r"hit v1 1 120 20, 16.7 %", text_of(row))


def test_the_navigation_counts(admin: Browser, key: MakeKey, server: Server, manage: Manage[object]) -> None:
    """Beside its pages the navigation has how many keys in use, plans and domains there are, in figures that agree."""
    made = key("navigated")

    def shows(page: str) -> bool:
        navigation = text_of(page.partition("nav-more")[0])
        counts = [count(server, table) for table in ("keys", "plans", "rule_domains")]
        return "Keys {} Plans {} Audit Rules {} Alerts".format(*counts) in navigation and "firing" not in navigation

    settled(admin, shows, "/audit")
    before = count(server, "keys")
    manage(lambda services: services.keys.revoke("test", made.key_id))
    assert count(server, "keys") != before
    settled(admin, shows, "/audit")


def test_suspending_states_what_it_would_refuse(admin: Browser, counter: Counter, key: MakeKey) -> None:
    """The dialogs that end a key's calls have their rate, and say so where there are none."""
    made, unused = key("cut-off"), key("cut-off-unused")
    series = Series(key=made.key_id, resource="r", subject="cut-off", plan="of-cut-off")
    counter.add(*(Counted(now() - ago * MINUTE, series, Counts(540, 60, 540)) for ago in range(1, 9)))
    for dialog in ("suspend", "revoke"):
        page = settled(admin, lambda page: "10.0 calls per second" in text_of(page), f"/keys/{made.key_id}/{dialog}")
        assert "of which 10 % are refused already" in text_of(page)
        assert "No call was counted" in text_of(admin.get(f"/keys/{unused.key_id}/{dialog}").text)


def count(server: Server, table: str) -> str:
    """How many rows of TABLE are there for good, as the navigation writes it."""
    gone = "state = 'revoked'" if table == "keys" else "delete_time IS NOT NULL"
    with connect(server.settings.database_url.get_secret_value()) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table} WHERE NOT ({gone})".encode()).fetchone()
    assert row is not None
    return f"{row[0]:,}"
