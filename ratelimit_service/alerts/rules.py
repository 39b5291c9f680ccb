"""The rules: when a condition begins to hold, and when it holds no more."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ratelimit_service.alerts.alert import Alert, Condition, Rule
from ratelimit_service.alerts.ports import PlanMinute
from ratelimit_service.usage.query_range import HOUR

MIN_CALLS: Final = 50
"""Calls of a plan in a minute below which its share of denials is no news."""

MIN_DENIED: Final = 20
"""Denials of a plan in a minute below which their share is no news."""

MIN_SHARE: Final = 0.05
"""Share of denials below which it is no news."""

NEW_SHARE: Final = 0.5
"""The same where a plan had fewer than MIN_CALLS calls before, so that there is nothing to compare with."""

BASELINE_MINUTES: Final = 15
"""Minutes before the last one that it is compared with."""

CALM_MINUTES: Final = 5
"""Minutes in which a condition has to be absent before its alert is resolved."""

MAX_EPISODE_US: Final = HOUR
"""After which a raised share of denials is no news any more: its alert is resolved."""

WATCHED_MINUTES: Final = BASELINE_MINUTES + 1

SERVICE: Final = "service"
"""The target of what concerns the service as a whole."""


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """How much of a quota's current window is used, in tokens, by the bucket that TARGET owns."""

    target: str
    limit: str
    window: str
    used: int
    amount: int
    key_id: str

    @property
    def percent(self) -> int:
        """Rounded down."""
        return self.used * 100 // self.amount


def quota_conditions(uses: Iterable[QuotaUse], thresholds: Sequence[int]) -> list[Condition]:
    """Those whose use has passed a threshold (percentages, ascending), with the highest that it has passed."""
    found = {}
    for use in uses:
        passed = [threshold for threshold in thresholds if use.percent >= threshold]
        if passed:
            summary = (
                f"{use.target} has used {use.percent} % of its quota {use.limit}: {use.used:,} of {use.amount:,} "
                f"this {use.window}"
            )
            detail = {"used": use.used, "amount": use.amount, "window": use.window, "key_id": use.key_id}
            found[use.target, use.limit] = Condition(Rule.QUOTA, use.target, use.limit, passed[-1], summary, detail)
    return list(found.values())


def denial_conditions(
    minutes: Iterable[PlanMinute], last: int, firing: Sequence[Alert], now_us: int
) -> list[Condition]:
    """Plans whose share of denials in minute LAST is at least twice that of the minutes before, or still is.

    Of a plan that had hardly a call before, it is news from NEW_SHARE on: its usual share is not known.

    An alert that is firing stays so until the share was below twice its own baseline, or below the floors, for
    CALM_MINUTES, or for MAX_EPISODE_US at most.
    """
    baselines = {alert.target: alert for alert in firing if alert.rule is Rule.DENIALS}
    by_plan: dict[str, list[PlanMinute]] = {}
    for minute in minutes:
        if minute.plan:
            by_plan.setdefault(minute.plan, []).append(minute)
    found = []
    for plan, of_plan in sorted(by_plan.items()):
        target = f"plans/{plan}"
        alert = baselines.get(target)
        if alert is not None:
            condition = _still_denied(alert, of_plan, last, now_us)
        else:
            condition = _newly_denied(target, of_plan, last)
        if condition is not None:
            found.append(condition)
    return found


def degraded_condition(minutes: Iterable[PlanMinute], last: int, *, store_error: str) -> list[Condition]:
    """Whether calls were decided without the bucket store in the last CALM_MINUTES, or it does not respond now."""
    degraded = sum(minute.degraded for minute in minutes if minute.minute > last - CALM_MINUTES)
    if not degraded and not store_error:
        return []
    if store_error:
        summary = "the bucket store does not respond: calls are decided by on_store_failure"
    else:
        summary = f"{degraded:,} calls were decided without the bucket store in the last {CALM_MINUTES} minutes"
    return [Condition(Rule.DEGRADED, SERVICE, "", 0, summary, {"calls": degraded, "store_error": store_error})]


def _newly_denied(target: str, minutes: Sequence[PlanMinute], last: int) -> Condition | None:
    before = [minute for minute in minutes if last - BASELINE_MINUTES <= minute.minute < last]
    calls = sum(minute.calls for minute in before)
    baseline = sum(minute.denied for minute in before) / calls if calls >= MIN_CALLS else None
    for minute in minutes:
        if minute.minute == last and _is_news(minute, NEW_SHARE / 2 if baseline is None else baseline):
            return _denied(target, minute, baseline)
    return None


def _still_denied(alert: Alert, minutes: Sequence[PlanMinute], last: int, now_us: int) -> Condition | None:
    baseline = float(alert.detail.get("baseline_percent", 0)) / 100
    if now_us - alert.started_us >= MAX_EPISODE_US:
        return None
    raised = [minute for minute in minutes if minute.minute > last - CALM_MINUTES and _is_news(minute, baseline)]
    if not raised:
        return None
    return _denied(alert.target, max(raised, key=lambda minute: minute.minute), baseline)


def _is_news(minute: PlanMinute, baseline: float) -> bool:
    share = minute.denied / minute.calls if minute.calls else 0.0
    enough = minute.calls >= MIN_CALLS and minute.denied >= MIN_DENIED
    return enough and share >= max(2 * baseline, MIN_SHARE)


def _denied(target: str, minute: PlanMinute, baseline: float | None) -> Condition:
    """BASELINE: the share before, None if that is not known."""
    share = round(minute.denied * 100 / minute.calls, 1)
    before = round((baseline or 0.0) * 100, 1)
    after = "hardly a call" if baseline is None else f"{before:g} %"
    summary = (
        f"{share:g} % of the calls of {target} were denied within a minute ({minute.denied:,} of {minute.calls:,}), "
        f"after {after} in the {BASELINE_MINUTES} minutes before"
    )
    detail = {"calls": minute.calls, "denied": minute.denied, "percent": share, "baseline_percent": before}
    return Condition(Rule.DENIALS, target, "", 0, summary, detail)
