"""The wall clock."""

import time


class SystemClock:
    """This machine's wall clock, as `decision.ports.Clock` describes it."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        return time.time_ns() // 1000
