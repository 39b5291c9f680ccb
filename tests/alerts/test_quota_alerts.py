"""Alerts of quotas: bounded work however many are firing, and counts that come late."""

from collections.abc import Collection, Sequence
from datetime import timedelta

import pytest

from alerts.conftest import NOW, Alerting
from alerts.near import MINUTE, charge, cover, five_near, later
from fixtures.usage import Counted, Series, UsageWriter, connect
from ratelimit_service.alerts import episodes, quota_alerts, quotas
from ratelimit_service.alerts.alert import Alert, AlertState, Rule
from ratelimit_service.decision.ports import Fetched
from ratelimit_service.management.paging import Paging
from ratelimit_service.usage.query import Counts


async def listed(alerting: Alerting) -> Sequence[Alert]:
    """All alerts."""
    return (await alerting.plane.alerts.list(Paging())).items


async def full(alerting: Alerting) -> int:
    """The number of alerts that report a quota that is used up."""
    return sum(alert.level == 100 for alert in await listed(alerting))


async def test_alerts_that_are_firing_are_read_again_in_parts(
    alerting: Alerting, usage: UsageWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two in each evaluation until all five were, with few keys in a query; no more before the next minute."""
    monkeypatch.setattr(quota_alerts, "MAX_FIRING", 2)
    monkeypatch.setattr(quotas, "_PER_FETCH", 2)
    monkeypatch.setattr(episodes, "WRITTEN_AT_ONCE", 2)
    fetch, sizes = alerting.policies.fetch, list[int]()

    async def count(key_ids: Collection[str]) -> Fetched:
        sizes.append(len(key_ids))
        return await fetch(key_ids)

    cover(usage, NOW + timedelta(days=2))
    key_ids = await five_near(alerting, usage)
    monkeypatch.setattr(alerting.policies, "fetch", count)
    term = await alerting.lead()
    await alerting.evaluator.evaluate(term)
    assert alerting.observer.counts == {Rule.QUOTA: 5}
    assert sizes == [2, 2, 1]
    for key_id in key_ids:
        await charge(alerting, key_id, 5)
    later(alerting, 20)
    for expected in (2, 4, 5):
        await alerting.evaluator.evaluate(term)
        assert await full(alerting) == expected
    sizes.clear()
    await alerting.evaluator.evaluate(term)
    assert sizes == []
    later(alerting, 24 * 60)
    for expected in (3, 1, 0):
        await alerting.evaluator.evaluate(term)
        assert alerting.observer.counts[Rule.QUOTA] == expected
    assert max(sizes) <= 2
    found = await listed(alerting)
    assert {alert.state for alert in found} == {AlertState.RESOLVED}
    assert {len(alert.deliveries) for alert in found} == {3}


async def test_quotas_that_cannot_be_written_stop_no_other_rule(
    alerting: Alerting, usage: UsageWriter, database_url: str
) -> None:
    """Somebody keeps the row of an alert locked: denials are reported all the same, and the quota when it is free."""
    await five_near(alerting, usage)
    term = await alerting.lead()
    await alerting.evaluator.evaluate(term)
    before = Series("k", "", "before", "other")
    counted = [Counted(NOW - number * MINUTE, before, Counts(allowed=100, denied=1)) for number in range(2, 17)]
    usage.write([*counted, Counted(NOW - MINUTE, before, Counts(allowed=50, denied=50))])
    for alert in await listed(alerting):
        await charge(alerting, alert.detail["key_id"], 5)
    later(alerting, 1)
    with connect(database_url) as other:
        other.execute("SELECT FROM alerts WHERE target = 'subjects/subject-3' FOR UPDATE")
        await alerting.evaluator.evaluate(term)
    assert alerting.observer.counts == {Rule.QUOTA: 5, Rule.DENIALS: 1}
    assert await full(alerting) < 5
    await alerting.evaluator.evaluate(term)
    assert await full(alerting) == 5


@pytest.mark.parametrize("lag", [10, 40])
async def test_counts_that_come_late_are_considered(alerting: Alerting, usage: UsageWriter, lag: int) -> None:
    """A subject whose counts come many minutes after its calls is reported, although it made no call since."""
    cover(usage, NOW - lag * MINUTE)
    term = await alerting.lead()
    await alerting.evaluator.evaluate(term)
    await five_near(alerting, usage, NOW - (lag - 1) * MINUTE)
    cover(usage, NOW)
    later(alerting, 1)
    await alerting.evaluator.evaluate(term)
    assert alerting.observer.counts == {Rule.QUOTA: 5}
