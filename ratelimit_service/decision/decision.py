"""What is answered to a check."""

from typing import NamedTuple

from ratelimit_service.decision.charge import NEVER, Weighed
from ratelimit_service.decision.policy import Policy, Rule
from ratelimit_service.decision.reason import Reason, Source


class Decision(NamedTuple):
    """Whether a call may go on, and why.

    `policy` is None when the key is unknown. `rules` were weighed, with what each said in `weighed`; both are empty
    when no bucket was asked. `binding` is the index of the rule that bound the decision, -1 when none did.
    """

    allowed: bool
    reason: Reason
    source: Source
    policy: Policy | None = None
    rules: tuple[Rule, ...] = ()
    weighed: tuple[Weighed, ...] = ()
    binding: int = -1

    @property
    def retry_after_us(self) -> int | None:
        """Microseconds until the same call fits, or None when it was allowed or no wait would help."""
        if self.allowed or self.binding < 0:
            return None
        wait = self.weighed[self.binding].wait_us
        return None if wait == NEVER else wait
