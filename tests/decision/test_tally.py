"""Decisions by plan and limit: few names, and nothing that is not counted."""

from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.decision.tally import MAX_LIMITS, MAX_PLANS, NO_PLAN, OTHER, DecisionTally


def test_plans_beyond_the_bound_are_counted_together() -> None:
    """The first plans keep their names, however many come after them, and the totals have all decisions."""
    tally = DecisionTally()
    tally[NO_PLAN][Reason.KEY_UNKNOWN][Source.POLICY] += 1
    for _ in range(2):
        for number in range(MAX_PLANS + 50):
            tally[f"plan-{number}"][Reason.WITHIN_LIMIT][Source.STORE] += 1
    assert set(tally) == {NO_PLAN, OTHER, *(f"plan-{number}" for number in range(MAX_PLANS))}
    assert tally["plan-0"][Reason.WITHIN_LIMIT][Source.STORE] == 2
    assert tally[OTHER][Reason.WITHIN_LIMIT][Source.STORE] == 100
    totals = tally.totals()
    assert totals[Reason.WITHIN_LIMIT][Source.STORE] == 2 * (MAX_PLANS + 50)
    assert sum(map(sum, totals)) == 2 * (MAX_PLANS + 50) + 1


def test_limits_beyond_the_bound_are_counted_together() -> None:
    """Those of a plan with a name, and of the plans without: overrides may name any number of limits."""
    tally = DecisionTally()
    for number in range(MAX_PLANS + 1):
        tally[f"plan-{number}"][Reason.OVER_LIMIT][Source.STORE] += 1
    for _ in range(2):
        for number in range(MAX_LIMITS + 5):
            tally.deny("plan-0", f"limit-{number}")
    tally.deny(f"plan-{MAX_PLANS}", "burst")
    assert tally.denials["plan-0", "limit-0"] == 2
    assert tally.denials["plan-0", OTHER] == 10
    assert tally.denials[OTHER, OTHER] == 1
    assert len(tally.denials) == MAX_LIMITS + 2
    assert sum(tally.denials.values()) == 2 * (MAX_LIMITS + 5) + 1
