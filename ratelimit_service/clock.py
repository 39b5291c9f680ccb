"""The machine's clock."""

from time import time_ns
from typing import Final


class SystemClock:
    """Wall-clock time, as `decision.ports.Clock` describes it."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        return time_ns() // 1_000


SYSTEM_CLOCK: Final = SystemClock()
