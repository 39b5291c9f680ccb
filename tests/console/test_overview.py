"""The overview: its figures are the counts, its cause is by the rule, and its live figures end with the session."""

import html
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from console.browser import Browser
from console.conftest import Manage
from fixtures.confirmed import confirmed
from fixtures.dev_server import free_address
from fixtures.served import Serve, Server
from fixtures.usage import Counted, Series, UsageWriter, add_partitions, connect, microseconds
from ratelimit_service.bootstrap import Services
from ratelimit_service.console.security.streams import MAX_STREAMS_HERE
from ratelimit_service.decision.limit import Level, Limit, TokenBucket
from ratelimit_service.decision.record import OnStoreFailure, Override
from ratelimit_service.management.keys import KeyDraft
from ratelimit_service.management.overrides import OverrideTarget
from ratelimit_service.management.plans import PlanChanges, PlanDraft
from ratelimit_service.management.tokens import Role
from ratelimit_service.usage.query import Counts

MINUTE = timedelta(minutes=1)
XSS = '<img src=x onerror="alert(1)">'


@dataclass
class Counter:
    """Writes counts as if they had been flushed."""

    url: str
    writers: list[UsageWriter] = field(default_factory=list)

    def add(self, *rows: Counted) -> None:
        """Write them, and that all until now has arrived."""
        with connect(self.url) as connection:
            first = datetime.now(UTC) - timedelta(days=1)
            add_partitions(connection, first, 3)
            writer = self.writers[0] if self.writers else UsageWriter(connection)
            writer.connection = connection
            self.writers[:] = [writer]
            writer.write(rows)
            arrived = datetime.now(UTC)
            connection.execute(
                "INSERT INTO usage_segments VALUES ('{u}', %s, 0, %s, 1, 1, %s)",
                (str(microseconds(arrived)), now() - MINUTE, arrived),
            )


@pytest.fixture(scope="module")
def overview_server(serve: Serve) -> Iterator[Server]:
    """A server of these tests' own: nobody else counts on it."""
    server = serve("grpcio", operations_listen=free_address())
    yield server
    server.close()


@pytest.fixture
def server(overview_server: Server) -> Server:
    """The server that the other fixtures use."""
    return overview_server


@pytest.fixture
def base(server: Server) -> str:
    """Its console."""
    return f"http://{server.settings.operations_listen}/console"


@pytest.fixture
def counter(server: Server) -> Counter:
    """Writes counts into its database."""
    return Counter(server.settings.database_url.get_secret_value())


def now() -> datetime:
    """The start of this minute."""
    return datetime.now(UTC).replace(second=0, microsecond=0)


def text_of(page: str) -> str:
    """What a page says, without its markup."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


def settled(browser: Browser, wanted: Callable[[str], bool], path: str = "/") -> str:
    """The page once it shows what was counted. Figures of a range are kept for up to ten seconds.

    So a test that changes something has the page of another range than it had before: the one read longest ago.
    """
    for _ in range(60):
        page = browser.get(path).text
        if wanted(page):
            return page
        time.sleep(0.25)
    raise AssertionError(text_of(page))


def test_figures_are_what_was_counted(admin: Browser, counter: Counter) -> None:
    """Refused now, busiest keys and the answers have the counts that were written, and parts add up to the total."""
    acme = Series(key="A" * 16, resource="r", subject="acme-figures", plan="free")
    other = Series(key="B" * 16, resource="r", subject="other-figures", plan="free")
    rule = Series(domain="shop", rule="path")
    rows = []
    for ago in range(3, 9):
        rows += [
            Counted(now() - ago * MINUTE, acme, Counts(540, 60, 540, 0, 0), (("burst", 60, 0),)),
            Counted(now() - ago * MINUTE, other, Counts(1188, 12, 1188, 30, 0), (("daily", 12, 0), ("next", 0, 30))),
            Counted(now() - ago * MINUTE, rule, Counts(600, 0, 600, 0, 0)),
        ]
    counter.add(*rows)
    page = settled(admin, lambda page: "acme-figures" in page and "1.0" in page, "/?range=1h")
    shown = text_of(page)
    # 3 or 4 of the last 5 minutes have counts: shares do not depend on which.
    assert "3 % of calls are refused" in shown
    assert "83.3 % of that is acme-figures , over burst of plan free" in shown
    refused = re.search(r'data-part="refused".*?</section>', page, re.DOTALL)
    assert refused
    assert re.findall(r"<span>([\d.]+ %)</span></span>", refused[0]) == ["83.3 %", "16.7 %"]
    busiest = re.search(r'data-part="busiest".*?</section>', page, re.DOTALL)
    assert busiest
    assert "1,188" in busiest[0] or "7,128" in busiest[0]
    rows_of_chart = re.findall(r'<tr data-t="(\d+)" data-v="([^"]+)">', page)
    assert len(rows_of_chart) == 60
    per_minute = {int(at): [float(value) for value in values.split()] for at, values in rows_of_chart}
    counted = per_minute[int((now() - 6 * MINUTE).timestamp())]
    assert counted == pytest.approx([2328 / 60, 72 / 60, 72 / 2400, 30 / 60, 0], rel=1e-4)


def test_names_are_never_markup(admin: Browser, counter: Counter) -> None:
    """XSS: a subject, plan or limit from a call's counts is text in tables, meters, answers and the stream."""
    series = Series(key="C" * 16, resource=XSS, subject=f"{XSS}subject", plan=f"{XSS}plan")
    counter.add(
        *(
            Counted(now() - ago * MINUTE, series, Counts(10, 99_000, 10, 0, 9), ((f"{XSS}limit", 99_000, 0),))
            for ago in range(3, 9)
        )
    )
    page = settled(admin, lambda page: "onerror" in page)
    with admin.client.stream("GET", f"{admin.base}/overview/live") as answer:
        sent = next(line for line in answer.iter_lines() if line.startswith("data: "))
    for text in (page, *json.loads(sent.removeprefix("data: ")).values()):
        assert "<img" not in text
    assert page.count("&lt;img src=x") > 4


def test_a_change_is_named_only_if_refusals_followed_it(admin: Browser, counter: Counter, manage: Manage[None]) -> None:
    """A cut of a plan whose limit then began to refuse is the answer to what changed; without refusals it is not."""
    limits = (Limit("burst", TokenBucket(100, 100, 1_000_000)),)
    lower = (Limit("burst", TokenBucket(100, 10, 1_000_000)),)

    async def change(services: object) -> None:
        plans = services.plans  # type: ignore[attr-defined]
        await plans.create(
            "mara", PlanDraft(name="cut-plan", limits=limits, on_store_failure=OnStoreFailure.LOCAL, description="")
        )
        update = partial(plans.update, "mara", "cut-plan", PlanChanges(limits=lower))
        await confirmed(lambda confirmation: update(confirmation=confirmation))

    manage(change)
    page = settled(admin, lambda page: "cut-plan v2" in page, "/?range=24h")
    assert "Refusals by" not in text_of(page)
    with connect(counter.url) as connection:  # the change was made seven minutes ago
        connection.execute("UPDATE audit_events SET time = time - interval '7 minutes' WHERE target = 'plans/cut-plan'")
    series = Series(key="D" * 16, resource="r", subject="cut-subject", plan="cut-plan")
    counter.add(
        *(Counted(now() - ago * MINUTE, series, Counts(100, 30, 100), (("burst", 30, 0),)) for ago in range(2, 7))
    )
    page = settled(admin, lambda page: "Refusals by" in page, "/?range=7d")
    assert "changed burst from 100, +100/s to 100, +10/s." in text_of(page)
    assert re.search(r"Refusals by burst began within \d+ min of it", text_of(page))


def test_a_boost_is_never_named_as_the_cause(admin: Browser, counter: Counter, manage: Manage[None]) -> None:
    """Refusals that began when a key was boosted were the reason for the boost, not its effect; a cut is an effect."""
    limits = (Limit("burst", TokenBucket(100, 100, 1_000_000)),)

    async def change(services: Services) -> None:
        plan = PlanDraft(name="boosted", limits=limits, on_store_failure=OnStoreFailure.LOCAL, description="")
        await services.plans.create("mara", plan)
        draft = KeyDraft(plan="boosted", subject="boosted-subject", description="", expires_us=None)
        await services.keys.create("mara", draft)
        target = OverrideTarget(Level.SUBJECT, "boosted-subject")
        for capacity in (777, 55):
            override = Override(Limit("burst", TokenBucket(capacity, 100, 1_000_000)), None)
            await services.overrides.set("mara", target, override)
            delete = partial(services.overrides.delete, "mara", target, "burst")
            await confirmed(lambda confirmation, delete=delete: delete(confirmation=confirmation))  # type: ignore[misc]

    manage(change)
    with connect(counter.url) as connection:  # the changes were made seven minutes ago, the boost last
        connection.execute(
            "UPDATE audit_events SET time = time - interval '7 minutes' WHERE target = 'subjects/boosted-subject'"
        )
        connection.execute(
            "DELETE FROM audit_events WHERE target = 'subjects/boosted-subject' AND action = 'override.delete'"
        )
    series = Series(key="E" * 16, resource="r", subject="boosted-subject", plan="boosted")
    counter.add(
        *(Counted(now() - ago * MINUTE, series, Counts(100, 30, 100), (("burst", 30, 0),)) for ago in range(2, 7))
    )
    page = text_of(settled(admin, lambda page: "boosted-subject" in page and "to 55" in text_of(page), "/?range=1h"))
    assert "Override set at" in page
    assert "changed burst to 55, +100/s. Refusals by burst began" in page
    with connect(counter.url) as connection:
        connection.execute("DELETE FROM audit_events WHERE detail::text LIKE '%55%' AND action = 'override.set'")
    page = text_of(settled(admin, lambda page: "burst 777, +100/s" in text_of(page), "/?range=6h"))  # among the changes
    assert "to 55" not in page
    assert "changed burst to 777" not in page


def test_the_stream_sends_what_has_changed(admin: Browser, counter: Counter) -> None:
    """New counts reach an open page; what did not change is not sent again."""
    series = Series(key="E" * 16, resource="r", subject="streamed", plan="streamed")
    with admin.client.stream("GET", f"{admin.base}/overview/live?range=24h") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        lines = answer.iter_lines()
        first = json.loads(next(line for line in lines if line.startswith("data: {")).removeprefix("data: "))
        assert set(first) >= {"answers", "components", "decisions", "refused", "quotas", "busiest", "changes"}
        counter.add(*(Counted(now() - ago * MINUTE, series, Counts(90_000, 0, 90_000)) for ago in range(2, 7)))
        for line in lines:
            if line.startswith("data: {"):
                sent = json.loads(line.removeprefix("data: "))
                assert len(sent) < len(first)
                if "streamed" in sent.get("busiest", ""):
                    break


def test_the_stream_ends_with_the_session(browse: Callable[..., Browser], server: Server) -> None:
    """Signing out closes every stream of the session, within a tick or two."""
    browser = browse().sign_in(server.tokens[Role.VIEWER])
    with browser.client.stream("GET", f"{browser.base}/overview/live") as answer:
        lines = answer.iter_lines()
        next(lines)
        assert browse(browser.session_cookie).submit("/sign-out").status_code == 303
        assert "event: end" in list(lines)


def test_streams_are_bounded(browse: Callable[..., Browser], server: Server) -> None:
    """A session has so many streams and no more; a closed one makes room."""
    browser = browse().sign_in(server.tokens[Role.VIEWER])
    path = f"{browser.base}/overview/live"
    opened = []
    for _ in range(MAX_STREAMS_HERE):
        stream = browse(browser.session_cookie).client.stream("GET", path)
        answer = stream.__enter__()
        assert answer.status_code == 200
        lines = answer.iter_lines()
        next(lines)
        opened.append((stream, lines))  # what nobody holds is closed
    with browser.client.stream("GET", path) as answer:
        assert answer.status_code == 503
    for stream, _ in opened:
        stream.__exit__(None, None, None)
    for _ in range(40):
        with browser.client.stream("GET", path) as answer:
            if answer.status_code == 200:
                return
        time.sleep(0.25)
    raise AssertionError("no room was made")


def test_without_counts_there_is_a_first_step(admin: Browser, viewer: Browser, server: Server) -> None:
    """A range of an unknown name is the usual one, and a viewer is offered nothing to change."""
    assert admin.get("/?range=%3Cxss%3E").status_code == 200
    assert "keys/new" not in viewer.get("/").text
    assert server.process.poll() is None
