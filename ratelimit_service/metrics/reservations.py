"""What became of reservations, counted as the bucket store replies."""

from collections.abc import Callable, Sequence
from time import time

from ratelimit_service.decision.charge import (
    GONE,
    Charge,
    ChargeResult,
    Extend,
    Grant,
    HoldChange,
    Reserve,
    Return,
    Settle,
)
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.metrics.grants import GrantCounts


class ReservationCounts:
    """Counts what replies say of reservations, whoever the callers are. An observer of the store.

    One server makes a reservation, and another may settle it. So each counts by the second in which the hold ends, as
    the store has it: plus one where it is made, minus one where it is settled. Added up over all servers that is what
    is open, and what ends with its hold leaves the sum by itself. The seconds of an hour are kept, as a hold lasts at
    most. `now` is the time in seconds since 1970 UTC.
    """

    def __init__(self, now: Callable[[], float] = time) -> None:
        self._now = now
        self._ends: dict[int, int] = {}  # the reservations whose hold ends in each second
        self.events = dict.fromkeys(("made", "repeated", "settled", "extended", "gone"), 0)
        """Replies so far, by what they say. `repeated`: the same again, which has changed nothing."""
        self.grants = GrantCounts()
        """The same of grants, which are none of these."""
        self.clamped = 0
        """Tokens of settlements so far that were above the overdraft of a limit."""
        self.overdrawn = 0
        """Settlements and charges made afterwards so far that left a limit owing tokens."""

    @property
    def open(self) -> int:
        """Reservations made here that are open, less those of others that were settled here: perhaps negative."""
        now = self._now()
        for second in [second for second in self._ends if second <= now]:
            del self._ends[second]
        return sum(self._ends.values())

    def observe(self, charges: Sequence[Charge], results: Sequence[ChargeResult]) -> None:
        """Count the results of CHARGES, of which some have to do with reservations, or were made afterwards."""
        for charge, result in zip(charges, results, strict=True):
            own, hold = charge.reservation, result.hold
            if isinstance(own, Grant | Return):
                self.grants.count(charge, result)
                continue
            if not isinstance(hold, HoldChange):
                continue
            if own is not None:
                self._count(own, result, hold)
            elif not charge.afterwards:
                continue
            if (charge.afterwards or hold.before) and any(one.remaining < 0 for one in result.limit_results):
                self.overdrawn += 1

    def _count(self, reservation: Reserve | Settle | Extend, result: ChargeResult, hold: HoldChange) -> None:
        before, after = hold
        ends = self._ends
        if before != after:
            if before:
                second = _second_of(before)
                ends[second] = ends.get(second, 0) - 1
            if after:
                second = _second_of(after)
                ends[second] = ends.get(second, 0) + 1
        if isinstance(reservation, Reserve):
            if result.charged:
                self.events["made" if after else "repeated"] += 1
        elif result.held_us == GONE:
            self.events["gone"] += 1
        elif isinstance(reservation, Extend):
            self.events["extended"] += 1
        elif before:
            self.events["settled"] += 1
            self.clamped += result.clamped
        else:
            self.events["repeated"] += 1


def _second_of(ends_us: int) -> int:
    """The first second since 1970 UTC in which a hold is over that ends then."""
    return -(-ends_us // MICRO)
