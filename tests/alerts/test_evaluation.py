"""Episodes of alerts on a real Postgres: once for each, and the message in the same transaction."""

from collections.abc import Sequence
from dataclasses import replace

import psycopg
import pytest

from alerts.conftest import NOW, Alerting
from alerts.near import MINUTE, QUOTA, charge, five_near, later
from fixtures.control_plane import START, ControlPlane, key_draft, plan_draft
from fixtures.usage import Counted, Series, UsageWriter
from ratelimit_service.alerts import quotas
from ratelimit_service.alerts.alert import Alert, AlertState, DeliveryEvent, Rule
from ratelimit_service.decision.charge import Charge, ChargeResult
from ratelimit_service.decision.limit import Counting, Limit, Quota, Window
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.errors import FailedPrecondition
from ratelimit_service.management.paging import Paging
from ratelimit_service.postgres.repositories import alert_usage
from ratelimit_service.usage.ports import LeaseLost
from ratelimit_service.usage.query import Counts


async def listed(plane: ControlPlane) -> list[Alert]:
    """All alerts."""
    return list((await plane.alerts.list(Paging())).items)


async def test_a_quota_is_reported_as_it_fills(alerting: Alerting, usage: UsageWriter) -> None:
    """One alert for the day: at 80 %, again at 100 %, resolved on the next day; the use is that of the bucket."""
    plane = alerting.plane
    await plane.plans.create("ada", plan_draft("free", QUOTA))
    key, _ = await plane.keys.create("ada", key_draft("acme"))
    series = Series(key.key_id, "orders", "acme", "free")
    usage.write([Counted(NOW - 2 * MINUTE, series, Counts(allowed=85, cost=85))])
    await charge(alerting, key.key_id, 85)
    term = await alerting.lead()
    await alerting.evaluator.evaluate(term)
    await alerting.evaluator.evaluate(term)
    (alert,) = await listed(plane)
    assert (alert.rule, alert.target, alert.limit, alert.level) == (Rule.QUOTA, "subjects/acme", "daily", 80)
    assert (alert.detail["used"], alert.detail["amount"]) == (85, 100)
    assert alerting.observer.counts == {Rule.QUOTA: 1}
    await charge(alerting, key.key_id, 15)
    later(alerting, 2)
    await alerting.evaluator.evaluate(term)
    later(alerting, 24 * 60)
    await alerting.evaluator.evaluate(term)
    (alert,) = await listed(plane)
    assert (alert.level, alert.state) == (100, AlertState.RESOLVED)
    events = [delivery.event for delivery in reversed(alert.deliveries)]
    assert events == [DeliveryEvent.FIRING, DeliveryEvent.FIRING, DeliveryEvent.RESOLVED]


async def test_counts_say_who_is_near_and_buckets_how(alerting: Alerting, usage: UsageWriter) -> None:
    """A subject whose bucket is nearly used up but made no call lately is left out; one far off by counts neither."""
    plane = alerting.plane
    await plane.plans.create("ada", plan_draft("free", QUOTA))
    idle, _ = await plane.keys.create("ada", key_draft("idle"))
    far, _ = await plane.keys.create("ada", key_draft("far"))
    usage.write(
        [
            Counted(NOW - 60 * MINUTE, Series(idle.key_id, "", "idle", "free"), Counts(allowed=95, cost=95)),
            Counted(NOW - 2 * MINUTE, Series(far.key_id, "", "far", "free"), Counts(allowed=10, cost=10)),
        ]
    )
    for key in (idle, far):
        await charge(alerting, key.key_id, 95)
    await alerting.evaluator.evaluate(await alerting.lead())
    assert await listed(plane) == []


async def test_a_quota_of_calls_is_near_by_calls(alerting: Alerting, usage: UsageWriter) -> None:
    """85 calls of 100 are reported whatever they cost, and ten that cost 95 are not."""
    plane = alerting.plane
    await plane.plans.create("ada", plan_draft("free", replace(QUOTA, counts=Counting.CALLS)))
    many, _ = await plane.keys.create("ada", key_draft("many"))
    dear, _ = await plane.keys.create("ada", key_draft("dear"))
    usage.write(
        [
            Counted(NOW - 2 * MINUTE, Series(many.key_id, "", "many", "free"), Counts(allowed=85, cost=7)),
            Counted(NOW - 2 * MINUTE, Series(dear.key_id, "", "dear", "free"), Counts(allowed=10, cost=95)),
        ]
    )
    for key in (many, dear):
        await charge(alerting, key.key_id, 85)
    await alerting.evaluator.evaluate(await alerting.lead())
    assert [alert.target for alert in await listed(plane)] == ["subjects/many"]


async def test_of_too_many_subjects_some_are_checked(
    alerting: Alerting, usage: UsageWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If more are near a quota than are checked at a time, a metric has their number, and in time all of them fire."""
    monkeypatch.setattr(quotas, "MAX_SUBJECTS", 3)
    await five_near(alerting, usage)
    term = await alerting.lead()
    await alerting.evaluator.evaluate(term)
    assert (alerting.observer.left_out, alerting.observer.counts[Rule.QUOTA]) == (2, 3)
    for _ in range(100):
        later(alerting, 1)
        await alerting.evaluator.evaluate(term)
        if alerting.observer.counts[Rule.QUOTA] == 5:
            break
    assert alerting.observer.counts[Rule.QUOTA] == 5


async def test_of_very_many_subjects_with_calls_a_part_is_considered(
    alerting: Alerting, usage: UsageWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as one query takes; the others in the minutes after, until all have been, and then all at once again."""
    monkeypatch.setattr(alert_usage, "_MAX_ACTIVE", 2)
    await five_near(alerting, usage)
    term = await alerting.lead()
    await alerting.evaluator.evaluate(term)
    assert alerting.observer.counts[Rule.QUOTA] <= 2
    for _ in range(12):
        later(alerting, 1)
        await alerting.evaluator.evaluate(term)
    assert alerting.observer.counts[Rule.QUOTA] == 5


async def test_denials_and_degraded_decisions(alerting: Alerting, usage: UsageWriter) -> None:
    """A plan's share that doubles, and calls decided without the store, each fire once and are resolved after calm."""
    plane = alerting.plane
    series = Series("k", "", "acme", "free")
    usage.write(
        [
            *(Counted(NOW - number * MINUTE, series, Counts(allowed=100, denied=1)) for number in range(3, 18)),
            Counted(NOW - 2 * MINUTE, series, Counts(allowed=50, denied=50, degraded=7)),
        ]
    )
    term = await alerting.lead()
    await alerting.evaluator.evaluate(term)
    await alerting.evaluator.evaluate(term)
    found = {alert.rule: alert for alert in await listed(plane)}
    assert set(found) == {Rule.DENIALS, Rule.DEGRADED}
    assert found[Rule.DENIALS].target == "plans/free"
    assert found[Rule.DEGRADED].detail["calls"] == 7
    later(alerting, 6)
    await alerting.evaluator.evaluate(term)
    assert {alert.state for alert in await listed(plane)} == {AlertState.RESOLVED}
    assert [len(alert.deliveries) for alert in await listed(plane)] == [2, 2]


async def test_a_store_that_does_not_respond_fires_at_once(alerting: Alerting) -> None:
    """Without waiting for counts, which come when the store is back; quotas keep their state meanwhile."""
    alerting.store_error = "Redis is unavailable"
    term = await alerting.lead()
    await alerting.evaluator.evaluate(term)
    (alert,) = await listed(alerting.plane)
    assert (alert.rule, alert.target, alert.state) == (Rule.DEGRADED, "service", AlertState.FIRING)
    alerting.store_error = ""
    await alerting.evaluator.evaluate(term)
    (alert,) = await listed(alerting.plane)
    assert alert.state is AlertState.RESOLVED


async def test_quotas_that_cannot_be_read_stop_no_other_rule(
    alerting: Alerting, usage: UsageWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Denials are reported all the same, and quotas at the next evaluation; no read is of more than 50 buckets."""
    plane = alerting.plane
    limits = [Limit(f"daily-{number}", Quota(100, Window.DAY)) for number in range(16)]
    await plane.plans.create("ada", plan_draft("free", *limits))
    before = Series("k", "", "before", "free")
    counted = [Counted(NOW - number * MINUTE, before, Counts(allowed=100, denied=1)) for number in range(3, 18)]
    for number in range(4):
        key, _ = await plane.keys.create("ada", key_draft(f"acme-{number}"))
        series = Series(key.key_id, "orders", f"acme-{number}", "free")
        counted.append(Counted(NOW - 2 * MINUTE, series, Counts(allowed=95, denied=95, cost=95)))
        await charge(alerting, key.key_id, 95)
    usage.write(counted)
    charge_all, sizes, down = alerting.buckets.charge, list[int](), True

    async def read(charges: Sequence[Charge], deadline: float | None = None) -> Sequence[ChargeResult]:
        sizes.append(len(charges))
        if down:
            raise StoreUnavailable("no reply")
        return await charge_all(charges, deadline)

    monkeypatch.setattr(alerting.buckets, "charge", read)
    term = await alerting.lead()
    await alerting.evaluator.evaluate(term)
    assert {alert.rule for alert in await listed(plane)} == {Rule.DENIALS}
    down = False
    await alerting.evaluator.evaluate(term)
    assert {alert.rule for alert in await listed(plane)} == {Rule.DENIALS, Rule.QUOTA}
    assert max(sizes) <= 50


async def test_a_restarted_leader_goes_on(alerting: Alerting) -> None:
    """A new process finds the alert that is firing, and does not report it again; the former one can write nothing."""
    alerting.store_error = "Redis is unavailable"
    former = await alerting.lead()
    await alerting.evaluator.evaluate(former)
    await alerting.lease.release(former)
    successor = Alerting(alerting.plane)
    successor.store_error = alerting.store_error
    await successor.evaluator.evaluate(await successor.lead())
    (alert,) = await listed(alerting.plane)
    assert len(alert.deliveries) == 1
    with pytest.raises(LeaseLost):
        await alerting.evaluator.evaluate(former)


async def test_alerts_are_listed_firing_first(alerting: Alerting) -> None:
    """Those that are firing come first, then the others, in both the newest first, page by page."""
    plane = alerting.plane
    async with plane.transactions.writing() as work:
        for number in range(5):
            ended = START + number if number % 2 else None
            alert = Alert(0, Rule.QUOTA, f"subjects/{number}", "daily", 80, "", {}, START, START, ended)
            await work.alerts.add(alert)
    found, token = [], ""
    while True:
        page = await plane.alerts.list(Paging(2, token))
        found += [alert.target for alert in page.items]
        token = page.next_page_token
        if not token:
            break
    assert found == [f"subjects/{number}" for number in (4, 2, 0, 3, 1)]


async def test_a_test_needs_a_webhook(control_plane: ControlPlane) -> None:
    """Without one it is refused; with one the message is in the outbox and the change in the audit log."""
    delivery = await control_plane.alerts.test("ada")
    assert [test.delivery_id for test in await control_plane.alerts.tests()] == [delivery.delivery_id]
    assert (await control_plane.audit.list(Paging())).items[0].event.action == "alert.test"
    control_plane.alerts.webhook = False
    with pytest.raises(FailedPrecondition):
        await control_plane.alerts.test("ada")


async def test_no_row_ends_alerts(alerting: Alerting, usage: UsageWriter, database_url: str) -> None:
    """Rows that are none of ours, such as one with an infinite time, hide no others, and those are evaluated."""
    plane = alerting.plane
    await plane.plans.create("ada", plan_draft("free", QUOTA))
    key, _ = await plane.keys.create("ada", key_draft("acme"))
    usage.write([Counted(NOW - 2 * MINUTE, Series(key.key_id, "orders", "acme", "free"), Counts(allowed=85, cost=85))])
    await charge(alerting, key.key_id, 85)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        for rule, detail, time in (("quota", "[1]", "now()"), ("x", "{}", "now()"), ("denials", "{}", "'-infinity'")):
            await connection.execute(
                "INSERT INTO alerts (rule, target, limit_name, level, summary, detail, start_time, update_time)"
                f" VALUES ('{rule}', 'odd', 'l', 80, 's', '{detail}', {time}, {time})"
            )
        await connection.execute(
            "INSERT INTO alert_deliveries (delivery_id, event, body, state, attempts, status, error, create_time,"
            " next_time) VALUES ('d', 'x', '', 'pending', 0, 0, '', '-infinity', '-infinity')"
        )
    await alerting.evaluator.evaluate(await alerting.lead())
    found = {alert.target: alert for alert in await listed(plane)}
    assert "subjects/acme" in found
    assert "unreadable" in found["odd"].detail or found["odd"].rule is Rule.DENIALS
    assert await plane.alerts.tests() == []
