"""When a condition begins to hold, and when it holds no more."""

import pytest

from ratelimit_service.alerts.alert import Alert, Rule
from ratelimit_service.alerts.ports import PlanMinute
from ratelimit_service.alerts.rules import (
    MAX_EPISODE_US,
    QuotaUse,
    degraded_condition,
    denial_conditions,
    quota_conditions,
)

LAST = 1_000
NOW = 60_000_000 * (LAST + 2)


def minutes(*last: tuple[int, int], before: tuple[int, int] = (1_000, 10)) -> list[PlanMinute]:
    """Calls and denials of the plan free: so many in each of the 15 minutes before, and in the LAST ones."""
    first = LAST - len(last) + 1
    return [
        *(PlanMinute("free", minute, *before, 0) for minute in range(first - 15, first)),
        *(PlanMinute("free", first + position, *counts, 0) for position, counts in enumerate(last)),
    ]


def firing(baseline: float, started_us: int = NOW - 60_000_000) -> Alert:
    """An alert about denials of the plan free."""
    return Alert(1, Rule.DENIALS, "plans/free", "", 0, "", {"baseline_percent": baseline}, started_us, started_us)


@pytest.mark.parametrize(
    ("last", "before", "news"),
    [
        ((1_000, 100), (1_000, 10), True),
        ((1_000, 100), (0, 0), False),
        ((1_000, 100), (3, 0), False),
        ((1_000, 500), (0, 0), True),
        ((1_000, 499), (0, 0), False),
        ((1_000, 100), (4, 0), True),
        ((1_000, 100), (1_000, 50), True),
        ((1_000, 100), (1_000, 51), False),
        ((1_000, 49), (1_000, 1), False),
        ((3, 2), (0, 0), False),
        ((49, 30), (0, 0), False),
        ((1_000, 19), (1_000, 0), False),
        ((1_000, 1_000), (1_000, 600), False),
    ],
)
def test_a_share_of_denials_that_doubles(last: tuple[int, int], before: tuple[int, int], news: bool) -> None:
    """At least twice the share before, a twentieth, 20 denials and 50 calls: 2 of 3 calls are no news.

    Half of the calls, if there were fewer than 50 before: traffic that begins is not compared with none.
    """
    found = denial_conditions(minutes(last, before=before), LAST, [], NOW)
    assert [condition.target for condition in found] == ["plans/free"] * news


def test_an_alert_stays_while_the_share_is_raised() -> None:
    """It is compared with its own baseline, not with the minutes since, for five minutes; and for an hour at most."""
    raised = minutes(*[(1_000, 100)] * 12)
    assert denial_conditions(raised, LAST, [], NOW) == []
    (condition,) = denial_conditions(raised, LAST, [firing(1.0)], NOW)
    assert condition.detail["baseline_percent"] == 1.0
    calm = minutes((1_000, 100), *[(1_000, 10)] * 4)
    assert len(denial_conditions(calm, LAST, [firing(1.0)], NOW)) == 1
    assert denial_conditions(minutes((1_000, 100), *[(1_000, 10)] * 5), LAST, [firing(1.0)], NOW) == []
    assert denial_conditions(raised, LAST, [firing(1.0, NOW - MAX_EPISODE_US)], NOW) == []


@pytest.mark.parametrize(("used", "level"), [(79, 0), (80, 80), (89, 80), (90, 90), (99, 90), (100, 100), (130, 100)])
def test_the_highest_threshold_that_was_passed(used: int, level: int) -> None:
    """A quota's condition has the highest percentage that was reached, and none below the lowest."""
    found = quota_conditions([QuotaUse("subjects/acme", "daily", "day", used, 100, "k")], (80, 90, 100))
    assert [condition.level for condition in found] == [level] * (level > 0)


def test_degraded_decisions() -> None:
    """Any in the last five minutes count, older ones do not; and a store that does not respond now."""
    fresh = [PlanMinute("free", LAST - 4, 10, 0, 3)]
    old = [PlanMinute("free", LAST - 5, 10, 0, 3)]
    assert [condition.detail["calls"] for condition in degraded_condition(fresh, LAST, store_error="")] == [3]
    assert degraded_condition(old, LAST, store_error="") == []
    assert "does not respond" in degraded_condition([], LAST, store_error="it is down")[0].summary
