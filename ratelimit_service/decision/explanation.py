"""Why a check is decided as it is: every limit that was set for its key, and for each that does not apply the cause."""

from collections.abc import Iterator
from typing import NamedTuple

from ratelimit_service.decision.limit import Level, Limit
from ratelimit_service.decision.outcome import Decision
from ratelimit_service.decision.policy import Considered, Policy, Selection


class ExplainedLimit(NamedTuple):
    """A limit that was set for a key. It applies, and `bucket` names its state, unless `why_not` has the cause."""

    limit: Limit
    level: Level
    why_not: str
    bucket: str


class Explanation(NamedTuple):
    """What a check of `resource` would decide now. `policy` is None when the key is unknown."""

    decision: Decision
    policy: Policy | None
    selection: Selection
    resource: str = ""

    @property
    def considered(self) -> tuple[Considered, ...]:
        """Every limit that was set for the key."""
        return self.policy.considered if self.policy else ()

    def limits(self) -> Iterator[ExplainedLimit]:
        """Every limit that was set for the key, with the first cause for which it does not apply.

        That is another level (`overridden by key`), its end (`expired`), its pattern (`resource`), the reason for which
        all calls of the key are refused (`KEY_SUSPENDED`), or, of a limit on calls at once, that only calls with a hold
        are counted (`hold`).
        """
        buckets = {rule.limit.name: rule.bucket.name for rule in self.selection.rules}
        refusal = self.policy.refusal if self.policy else None
        for limit, level, overridden in self.considered:
            if overridden:
                why_not = overridden
            elif limit.name in buckets:
                why_not = ""
            elif not limit.matches(self.resource):
                why_not = "resource"
            else:
                why_not = refusal.name if refusal else "hold"
            yield ExplainedLimit(limit, level, why_not, "" if why_not else buckets[limit.name])
