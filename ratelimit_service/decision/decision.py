"""What is answered to a check."""

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from ratelimit_service.decision.charge import NEVER, Weighed

if TYPE_CHECKING:
    from ratelimit_service.decision.policy import Policy, Rule


class Reason(IntEnum):
    """Why a call was allowed or denied. The numbers are those of `ratelimit.v1.CheckLimitResponse.Reason`."""

    WITHIN_LIMIT = 1
    OVER_LIMIT = 2
    COST_EXCEEDS_CAPACITY = 3
    KEY_UNKNOWN = 4
    KEY_REVOKED = 5
    KEY_SUSPENDED = 6
    KEY_EXPIRED = 7
    DEGRADED_ALLOWED = 8
    DEGRADED_DENIED = 9


class Source(IntEnum):
    """What a decision rests on. The numbers are those of `ratelimit.v1.CheckLimitResponse.Source`."""

    STORE = 1
    POLICY = 2
    DEGRADED = 3


class Decision(NamedTuple):
    """Whether a call may go on, and why.

    `policy` is None when the key is unknown. `rules` were weighed, with what each said in `weighed`; both are empty
    when no bucket was asked. `binding` is the index of the rule that bound the decision, -1 when none did.
    """

    allowed: bool
    reason: Reason
    source: Source
    policy: "Policy | None" = None
    rules: "tuple[Rule, ...]" = ()
    weighed: tuple[Weighed, ...] = ()
    binding: int = -1

    @property
    def retry_after_us(self) -> int | None:
        """Microseconds until the same call fits, or None when it was allowed or no wait would help."""
        if self.allowed or self.binding < 0:
            return None
        wait = self.weighed[self.binding].wait_us
        return None if wait == NEVER else wait
