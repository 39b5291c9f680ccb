"""Until when counts are complete: figures end there, since a minute that is still being counted would look quiet."""

import asyncio
from typing import Final

from ratelimit_service.console.visit import Visit
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.usage.query_range import MINUTE

HEALTH_SECONDS: Final = 1.0
"""How long the state of the components is kept."""

_ARRIVED_SECONDS: Final = 2.0
_LATE_US: Final = 180 * MICRO
_SETTLED_US: Final = 75 * MICRO


def complete_minute(now_us: int, arrived_us: int, lag_us: int | None) -> int:
    """The end of the last minute that is complete: as far as is known, or else as it is by rule.

    Counts have arrived until ARRIVED_US (0: none) and are LAG_US behind (None: not known). Counts that are late are not
    there, so nothing after them is shown. While nobody calls, minutes are complete too, although nothing arrives.
    """
    late = lag_us is None or lag_us > _LATE_US
    expected_us = now_us - _SETTLED_US
    return (arrived_us if late and arrived_us else max(arrived_us, expected_us)) // MINUTE * MINUTE


async def complete_until(visit: Visit) -> int:
    """Read it, at most two seconds old. Raises Unavailable."""
    cache, services = visit.console.cache, visit.services
    health, arrived_us = await asyncio.gather(
        cache.get("health", HEALTH_SECONDS, services.health.read),
        cache.get("arrived", _ARRIVED_SECONDS, services.usage.complete_until),
    )
    return complete_minute(visit.now_us, arrived_us or 0, health.usage_lag_us)
