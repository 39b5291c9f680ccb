"""A change is named as a cause only if refusals by a limit that it changed began or doubled soon after it."""

import pytest

from ratelimit_service.console.causes import Suspect, find_cause, loosens, suspects
from ratelimit_service.management.audit import AuditEvent, Event
from ratelimit_service.usage.query_range import HOUR, MINUTE

CHANGED = 1_000 * HOUR
SUSPECT = Suspect(7, CHANGED, "burst", plan="pro")
UNTIL = CHANGED + 2 * HOUR


def minutes(first: int, counts: list[int]) -> dict[int, int]:
    """Refusals in the minutes from this one on, counted from the change."""
    return {CHANGED + (first + at) * MINUTE: count for at, count in enumerate(counts)}


@pytest.mark.parametrize(
    ("denied", "began"),
    [
        (minutes(0, [5] * 20), True),
        (minutes(4, [50] * 20), True),
        (minutes(-10, [10] * 10 + [30] * 20), False),
    ],
)
def test_what_began_or_doubled_soon_after_is_named(denied: dict[int, int], began: bool) -> None:
    """Refusals that begin, or double, within 10 minutes of the change are its effect."""
    cause = find_cause(SUSPECT, denied, UNTIL)
    assert cause is not None
    assert cause.began is began
    assert cause.after_us <= 10 * MINUTE


@pytest.mark.parametrize(
    "denied",
    [
        {},
        minutes(11, [500] * 20),  # too late
        minutes(-10, [10] * 10 + [15] * 20),  # more, and not the double
        minutes(-60, [100] * 90),  # as before
        minutes(-10, [10] * 10 + [40] + [10] * 20),  # for a minute only
        minutes(0, [1, 1, 1]),  # noise
        minutes(-3, [40] * 30),  # began before the change
    ],
)
def test_nothing_else_is_named(denied: dict[int, int]) -> None:
    """What began later, before, or hardly at all has no cause."""
    assert find_cause(SUSPECT, denied, UNTIL) is None


def test_minutes_that_are_not_complete_do_not_count() -> None:
    """Until the first minute after the change is complete, nothing is known of its effect."""
    assert find_cause(SUSPECT, minutes(0, [500] * 20), CHANGED) is None


def test_only_limits_that_changed_are_suspected() -> None:
    """A change of a plan is suspected of the limits that differ, one of an override of that limit, others of none."""
    same, old, new = {"quota": {"amount": 5}}, {"quota": {"amount": 10}}, {"quota": {"amount": 3}}
    event = Event(
        "mara",
        "plan.update",
        "plans/pro",
        {"limits": {"a": same, "b": new}},
        CHANGED,
        {"limits": {"a": same, "b": old}},
    )
    assert suspects(AuditEvent(1, event)) == [Suspect(1, CHANGED, "b", plan="pro")]
    override = Event("mara", "override.set", "subjects/acme", {"limit": {"name": "burst"}}, CHANGED)
    assert suspects(AuditEvent(2, override)) == [Suspect(2, CHANGED, "burst", subject="acme", new={"name": "burst"})]
    assert suspects(AuditEvent(3, Event("mara", "key.rotate", "keys/abc", {}, CHANGED))) == []


BUCKET = {"token_bucket": {"capacity": 20, "refill_tokens": 10, "refill_period_us": 1_000_000}, "mode": "enforce"}


@pytest.mark.parametrize(
    ("changed", "loose"),
    [
        ({"capacity": 40}, True),
        ({"capacity": 40, "refill_tokens": 20}, True),
        ({"capacity": 40, "refill_tokens": 9}, False),
        ({"refill_period_us": 2_000_000}, False),
    ],
)
def test_a_limit_that_was_raised_is_not_suspected(changed: dict[str, int], loose: bool) -> None:
    """A boost refuses nobody: a limit whose every amount is as high as before is no cause, whatever rose then."""
    new = BUCKET | {"token_bucket": {**BUCKET["token_bucket"], **changed}}  # type: ignore[dict-item]
    plan = Event("mara", "plan.update", "plans/pro", {"limits": {"b": new}}, CHANGED, {"limits": {"b": BUCKET}})
    assert bool(suspects(AuditEvent(1, plan))) is not loose
    override = Event("mara", "override.set", "keys/abc", {"limit": new | {"name": "b"}}, CHANGED, {"limit": BUCKET})
    assert bool(suspects(AuditEvent(2, override))) is not loose


def test_a_limit_in_shadow_or_gone_is_not_suspected() -> None:
    """What is in shadow, or is there no more, refuses nothing; what is new, or enforced now, does."""
    assert loosens(BUCKET, None)
    assert loosens(BUCKET, BUCKET | {"mode": "shadow"})
    assert not loosens(None, BUCKET)
    assert not loosens(BUCKET | {"mode": "shadow"}, BUCKET)
