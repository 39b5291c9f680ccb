"""What became of grants, counted as the bucket store replies."""

from collections.abc import Callable
from time import monotonic
from typing import Final

from ratelimit_service.decision.charge import GONE, Charge, ChargeResult, Granted, Returned
from ratelimit_service.decision.limit import MICRO

_SPAN: Final = 0.05
"""Seconds: ends of grants are known to so much."""


class GrantCounts:
    """Counts what replies say of grants, whoever the callers are.

    As with reservations one server makes a grant, and another may be returned it: each counts by when it ends, plus one
    where it is made, and minus one where it is returned before. `now` is a monotonic time in seconds.
    """

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._ends: dict[int, int] = {}  # the grants that end in each span
        self._forgotten = 0  # those of spans before this one
        self.events = dict.fromkeys(("made", "repeated", "returned", "gone"), 0)
        """Replies so far, by what they say. `repeated`: the same grant or return again, which has changed nothing."""
        self.units = dict.fromkeys(("granted", "returned", "spent"), 0)
        """Units so far. `spent`: calls that holders report as allowed. Over all servers together, what was granted and
        is neither returned nor spent is held now, or its holder has never reported it."""

    @property
    def open(self) -> int:
        """Grants made here that have not ended, less those of others that were returned here: perhaps negative."""
        self._forget_ended()
        return sum(self._ends.values())

    def count(self, charge: Charge, result: ChargeResult) -> None:
        """Count the result of a charge that makes a grant, or returns one."""
        events, units = self.events, self.units
        match result.hold:
            case Granted(taken, held, left_us):
                if held:
                    events["made" if taken else "repeated"] += 1
                    units["granted"] += taken
                    if taken:
                        self._add(left_us, 1)
            case Returned(returned, _, again, left_us):
                events["repeated" if again else "gone" if result.held_us == GONE else "returned"] += 1
                units["returned"] += returned
                if left_us:
                    self._add(left_us, -1)
                if not again:
                    units["spent"] += sum(counts[0] for _, _, _, counts in charge.counted if counts)

    def _add(self, left_us: int, grants: int) -> None:
        """Count so many GRANTS more that last for so long."""
        self._forget_ended()
        span = int((self._now() + left_us / MICRO) / _SPAN)
        self._ends[span] = self._ends.get(span, 0) + grants

    def _forget_ended(self) -> None:
        span = int(self._now() / _SPAN)
        if span == self._forgotten:
            return
        self._forgotten = span
        for ended in [ended for ended in self._ends if ended < span]:
            del self._ends[ended]
