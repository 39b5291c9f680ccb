"""How many statements may be spent on ids that no key has."""

from collections.abc import Callable
from time import monotonic
from typing import Final

PER_SECOND: Final = 9.0
BURST: Final = 5.0
"""Together at most 10 a second over any five seconds or longer, and the first unknown keys are looked up at once."""


class LookupBudget:
    """A token bucket of statements. Only those that find nothing are spent, so it may be exceeded by a few."""

    def __init__(
        self, *, per_second: float = PER_SECOND, burst: float = BURST, now: Callable[[], float] = monotonic
    ) -> None:
        self._per_second = per_second
        self._burst = burst
        self._now = now
        self._left = burst
        self._at = now()

    def wait(self, statements: int = 1) -> float:
        """Seconds until the last of so many STATEMENTS, made one after the other, may be made. 0: now."""
        now = self._now()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        return max(0.0, (statements - self._left) / self._per_second)

    def spend(self) -> None:
        """A statement found nothing. What is spent beyond the budget is owed, up to BURST."""
        self._left = max(self._left - 1.0, -self._burst)
