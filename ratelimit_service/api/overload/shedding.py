"""The share of calls that are refused before this process sees them."""

from collections.abc import Mapping
from typing import Final

from ratelimit_service.api.overload.control import Cause, OverloadControl

MIN_KEPT: Final = 0.04
"""The share of calls that is always seen here: without it nothing would show when the overload has ended."""

_TOO_MANY: Final = 2.0
"""Refusals per call answered above which calls are shed: up to there it is cheaper to let them wait."""

_ENOUGH: Final = 0.5
"""The same while calls are shed."""

_FEW: Final = 20
"""Refusals in a period below which nothing is shed."""

_SHRINK: Final = 0.5
_SHRINK_SLOWLY: Final = 0.8
_GROW: Final = 1.05
_RECOVER: Final = 1.5
_QUIET: Final = 5  # periods without refusals after which it recovers


class Shedding:
    """Decides how many percent of the calls the proxy in front refuses by itself, which costs it less than half.

    What is refused in front is chosen blindly, without regard to deadlines and shares. So that is the last resort: only
    while the proxy has more to do than it can, and refusals take more of this process than decisions do. Calls that
    were begun for nothing do not suffice, or whoever begins and resets some could have those of others refused. A
    single caller, or connection, is never answered with it: its own queue holds it.
    """

    def __init__(self, control: OverloadControl) -> None:
        self._control = control
        self._answered = 0
        self._quiet = 0
        self.kept = 1.0
        """The share of calls that is not refused in front."""

    def adapt(self, *, saturated: bool = True) -> int:
        """Adapt it to the period since the last time, and return the percentage to refuse in front.

        SATURATED: whether the proxy was never idle in it.
        """
        control = self._control
        answered = control.answered - self._answered
        self._answered = control.answered
        refused = _of_many(control.take_refused_of())
        full = saturated and self.kept < 1 and control.congested
        self._quiet = 0 if refused or full else self._quiet + 1
        too_many = refused > max(_FEW, (_TOO_MANY if self.kept == 1 else _ENOUGH) * answered)
        if too_many and saturated:
            wanted = (1 + _ENOUGH) * answered / (answered + refused)
            self.kept = max(self.kept * max(wanted, _SHRINK), MIN_KEPT)
        elif full:
            # What waits for the proxy is late when it gets here, whatever becomes of it then.
            self.kept = max(self.kept * _SHRINK_SLOWLY, MIN_KEPT)
        elif not control.congested:  # though calls may still be begun for nothing: the proxy has time for them
            self.kept = min(self.kept * (_RECOVER if self._quiet > _QUIET else _GROW), 1.0)
        return 100 - round(100 * self.kept)

    def count(self, calls: int) -> None:
        """Count calls that were refused in front."""
        self._control.refused[Cause.SHED] += calls


def _of_many(refused: Mapping[object, int]) -> int:
    """The calls refused, but for those of the caller with the most."""
    return sum(refused.values()) - max(refused.values(), default=0)
