"""Editing a plan: what the draft would have refused stands there before it is saved; alerts have a page."""

import csv
import re
from datetime import timedelta

from console.browser import Browser
from console.conftest import Manage
from console.test_overview import Counter, base, counter, now, overview_server, server
from fixtures.usage import Counted, Series
from ratelimit_service.console.what_if import SubjectEffect, csv_of
from ratelimit_service.decision.limit import Limit, Quota, Window
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.management.plans import PlanDraft
from ratelimit_service.usage.query import Counts
from ratelimit_service.usage.replay import Effect

__all__ = ["base", "counter", "overview_server", "server"]

MINUTE = timedelta(minutes=1)
XSS = "<img src=x>subject"
DRAFT = {
    "l0.name": "daily",
    "l0.resource": "*",
    "l0.kind": "quota",
    "l0.amount": "100",
    "l0.window": "day",
    "l0.mode": "enforce",
    "on_store_failure": "LOCAL",
}


def test_a_draft_shows_what_it_would_have_refused(
    admin: Browser, viewer: Browser, counter: Counter, manage: Manage[None]
) -> None:
    """A quota is exact: of 300 counted calls, 100 are allowed; a cut is saved only when the plan's name was typed."""
    quota = Limit("daily", Quota(1_000, Window.DAY))

    async def make(services: object) -> None:
        draft = PlanDraft(name="what-if", limits=(quota,), on_store_failure=OnStoreFailure.LOCAL, description="")
        await services.plans.create("mara", draft)  # type: ignore[attr-defined]

    manage(make)
    series = Series(key="F" * 16, resource="r", subject=XSS, plan="what-if")
    counter.add(*(Counted(now() - ago * MINUTE, series, Counts(100, 0, 100)) for ago in range(2, 5)))
    page = admin.submit("/plans/what-if/edit", do="review", **DRAFT).text
    shown = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert "200 calls, 66.7 % of 300" in shown
    assert "1 key would be refused for the first time" in shown
    assert "v2 refuses more: 1 subject for the first time." in shown
    assert "<img" not in page
    assert "&lt;img src=x&gt;subject" in page
    answer = admin.submit("/plans/what-if/edit", do="csv", **DRAFT)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert 'filename="what-if-v2-refused.csv"' in answer.headers["content-disposition"]
    assert list(csv.reader(answer.text.splitlines()))[1:] == [[XSS, "1", "300", "0", "200", "200", "yes"]]
    shadow = admin.submit("/plans/what-if/edit", do="shadow", **DRAFT).text
    assert re.search(r"<option[^>]* selected[^>]*>shadow", shadow)
    etag = re.search(r'name="etag" value="([^"]+)"', page)
    assert etag
    assert admin.submit("/plans/what-if/edit", do="save", etag=etag[1], **DRAFT).status_code == 400
    assert viewer.submit("/plans/what-if/edit", do="save", etag=etag[1], confirm="what-if", **DRAFT).status_code == 403
    saved = admin.submit("/plans/what-if/edit", do="save", etag=etag[1], confirm="what-if", **DRAFT)
    assert saved.status_code == 303
    again = admin.submit(
        "/plans/what-if/edit", do="save", etag=etag[1], confirm="what-if", **{**DRAFT, "l0.amount": "7"}
    )
    assert again.status_code == 409
    assert 'value="7"' in again.text


def test_alerts_have_a_page(admin: Browser, viewer: Browser) -> None:
    """Without a webhook the page says so, and a test message is refused with the reason; a viewer may not send one."""
    assert "No webhook is set up" in admin.get("/alerts").text
    answer = admin.submit("/alerts/test")
    assert answer.status_code == 409
    assert "WEBHOOK_NOT_CONFIGURED" in answer.text
    assert viewer.submit("/alerts/test").status_code == 403


def test_no_subject_is_a_formula_in_a_file() -> None:
    """A subject that begins as formulas do is text in the file of who would be refused."""
    lines = csv_of([SubjectEffect(name, 1, Effect(1, 0, 1, 1)) for name in ("=1+1", "@x", "plain")]).splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["'=1+1", "'@x", "plain"]
