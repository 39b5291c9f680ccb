"""How old the changes are that a process has in force, measured from where they are written to here."""

from collections.abc import Callable
from time import monotonic
from typing import Final

from ratelimit_service.decision.ports import Beat

OLD_SECONDS: Final = 5.0
"""Age from which on changes count as not in force. A feed that works is less than 3 s old."""


class FeedAge:
    """Seconds since the newest heartbeat was written that all caches have caught up with.

    A heartbeat's lag is measured by the clock that wrote it, and the time since then by this process's monotonic one:
    neither a step of a clock nor the distance of two clocks is taken for age, or hides it. What was written before this
    process began is not its age: it has read everything since.
    """

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._fresh_at = now()
        self._beat: str | None = None

    @property
    def seconds(self) -> float:
        """The age, at least 0. It grows while no new heartbeat comes, whatever the cause is."""
        return max(self._now() - self._fresh_at, 0.0)

    @property
    def reason(self) -> str:
        """What it does to decisions, in words; empty while it is not OLD_SECONDS."""
        age = self.seconds
        if age < OLD_SECONDS:
            return ""
        return f"changes of the last {age:.0f} s are not in force: no heartbeat came through the change feed"

    def caught_up(self, beat: Beat) -> None:
        """Record that every change that was there with this heartbeat is in force."""
        if beat.time == self._beat:
            return
        lag = 0.0 if self._beat is None else max(beat.lag, 0.0)
        self._beat = beat.time
        self._fresh_at = beat.read_at - lag
