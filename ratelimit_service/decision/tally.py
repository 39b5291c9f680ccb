"""Decisions counted by plan, limit, reason and source. Every call pays for it: plain lists and one dictionary."""

from typing import Final

from ratelimit_service.decision.reason import Reason, Source

MAX_PLANS: Final = 100
"""Plans that are counted by name. Their names are the values of a metric's label, each a series for ever."""

MAX_LIMITS: Final = 500
"""Limits, each of one plan, whose denials are counted by name."""

OTHER: Final = "other"
"""In place of the name of a plan or limit beyond these."""

NO_PLAN: Final = ""
"""In place of a plan where none is known: an unknown key, or descriptors that rules decide."""


class DecisionTally(dict[str, list[list[int]]]):
    """Decisions so far. `tally[plan][reason][source] += 1` counts one, `deny` the limit that has denied it.

    The first MAX_PLANS plans that this process decides by are counted by name, all others together as OTHER. Numbers
    only grow, and begin at 0 with the process.
    """

    def __init__(self) -> None:
        super().__init__()
        self[NO_PLAN] = _zeros()
        self.denials: dict[tuple[str, str], int] = {}
        """Decisions that one limit has denied, by plan and limit."""

    def __missing__(self, plan: str) -> list[list[int]]:
        name = plan if len(self) <= MAX_PLANS else OTHER
        if name not in self:
            self[name] = _zeros()
        return self[name]

    def deny(self, plan: str, limit: str, times: int = 1) -> None:
        """Count TIMES denials by the limit of this name, of a plan that a decision was counted by."""
        name = (plan if plan in self else OTHER), limit
        if name not in self.denials and len(self.denials) >= MAX_LIMITS:
            name = name[0], OTHER
        self.denials[name] = self.denials.get(name, 0) + times

    def totals(self) -> list[list[int]]:
        """Decisions of all plans and of none, by reason and then by source."""
        return [[sum(cell) for cell in zip(*rows, strict=True)] for rows in zip(*self.values(), strict=True)]


def _zeros() -> list[list[int]]:
    return [[0] * (max(Source) + 1) for _ in range(max(Reason) + 1)]
