"""What a reservation was settled at."""

from enum import Enum
from typing import NamedTuple

from .decision import LimitResult
from .error import RateLimitError


class OnError(Enum):
    """What an exception settles that leaves the scope of a reservation."""

    ESTIMATE = "ESTIMATE"
    """The estimate: the call may have taken all of it."""
    NOTHING = "NOTHING"
    """0: the call took nothing."""
    HOLD = "HOLD"
    """Nothing is sent: the hold runs out, and the estimate stays charged. `settle` can still follow until then."""


class Settlement(NamedTuple):
    """The result of settling a reservation."""

    settled: bool
    """Whether the service settled the reservation. If not, its estimate stays charged."""
    allowed: bool
    """Whether each enforced limit has a token left for the next call. That of the decision when it was not settled."""
    clamped: int
    """Tokens of the actual cost that one of the limits did not take, since its overdraft was used up."""
    limits: tuple[LimitResult, ...]
    """The result of every limit that the reservation was charged to, in the plan's order. Empty if not settled."""
    failure: RateLimitError | None
    """Why it was not settled: the service failed, or the hold had ended. None when there was nothing to settle."""
