"""Subjects near a quota, as counts and buckets have them, and time that passes."""

from datetime import datetime, timedelta

from alerts.conftest import NOW, Alerting
from fixtures.control_plane import SECOND, START, key_draft, plan_draft
from fixtures.usage import Counted, Series, UsageWriter
from ratelimit_service.decision.charge import Charge
from ratelimit_service.decision.limit import Limit, Quota, Window
from ratelimit_service.decision.policy import Policy
from ratelimit_service.usage.query import Counts

MINUTE = timedelta(minutes=1)
QUOTA = Limit("daily", Quota(100, Window.DAY))


async def charge(alerting: Alerting, key_id: str, tokens: int) -> None:
    """Use up tokens of a key's limits."""
    fetched = await alerting.policies.fetch([key_id])
    rules = Policy(fetched.records[key_id], START).rules
    buckets = tuple(rule.bucket for rule in rules)
    await alerting.buckets.charge([Charge(buckets, (tokens,) * len(buckets))])


def later(alerting: Alerting, minutes: int) -> None:
    """Let time pass."""
    alerting.plane.clock.us += minutes * 60 * SECOND


def cover(usage: UsageWriter, until: datetime) -> None:
    """Write down that all counts before this time are in Postgres."""
    usage.connection.execute(
        "INSERT INTO usage_coverage (complete_until) VALUES (%s)"
        " ON CONFLICT (only_row) DO UPDATE SET complete_until = EXCLUDED.complete_until",
        (until,),
    )
    usage.connection.commit()


async def five_near(alerting: Alerting, usage: UsageWriter, time: datetime = NOW - 2 * MINUTE) -> list[str]:
    """Make five subjects that have used 95 of 100 tokens at this time. Returns their keys."""
    plane = alerting.plane
    await plane.plans.create("ada", plan_draft("free", QUOTA))
    counted, key_ids = [], []
    for number in range(5):
        key, _ = await plane.keys.create("ada", key_draft(f"subject-{number}"))
        series = Series(key.key_id, "", f"subject-{number}", "free")
        counted.append(Counted(time, series, Counts(allowed=95, cost=95)))
        await charge(alerting, key.key_id, 95)
        key_ids.append(key.key_id)
    usage.write(counted)
    return key_ids
