"""How long something that was worked out may be used."""

from ratelimit_service.decision.limit import EXACT
from ratelimit_service.decision.ports import Clock

NO_END = EXACT
"""In place of a time: whatever changes is told."""


class Lease:
    """Held by a policy or rules in memory, and by everything that was worked out from them.

    Good before `until_us` (microseconds since 1970 UTC, perhaps NO_END), unless it was ended before because something
    newer is in force. `used`: whether anybody asked since it was made, or since this was last set to False.
    """

    __slots__ = ("until_us", "used")

    def __init__(self, until_us: int = NO_END) -> None:
        self.until_us = until_us
        self.used = False

    def end(self) -> None:
        """From now on it is good for nothing."""
        self.until_us = 0

    def holds(self, clock: Clock) -> bool:
        """Whether it is still good."""
        return self.until_us == NO_END or self.until_us > clock.now_us()
