"""How long and how strict the attacks are: short with generous bounds in CI, the bars themselves by `make attacks`."""

import os
from typing import Final

FULL: Final = os.environ.get("RATELIMIT_ATTACKS") == "full"
"""Whether figures are wanted: `make attacks` on a quiet machine."""

BEFORE_SECONDS: Final = 15.0 if FULL else 1.0
"""For which the victim is watched before the first attack on a server."""

ATTACK_SECONDS: Final = 30.0 if FULL else 0.8
"""For which an attack lasts."""

SETTLE_SECONDS: Final = 60.0 if FULL else 10.0
"""Within which memory has to be back after an attack; it is not waited for longer than that takes."""

LATENCY_FACTOR: Final = 1.0 if FULL else 10.0
"""By which the victim's p99 may exceed its bar, 2 x what it was before + 2 ms."""

CI_P99_MS: Final = 0.0 if FULL else 600.0
"""Which the bar is at least, for machines that stand still for a moment."""

MEMORY_MB: Final = 30.0 if FULL else 300.0
"""By which resident memory may grow during an attack."""

TOLERATED: Final = 0.0 if FULL else 0.05
"""The part of the victim's calls that may be errors or DEGRADED. A machine of CI may be busy with others' work, so that
calls are refused under overload or Redis answers late."""
