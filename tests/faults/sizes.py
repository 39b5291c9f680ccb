"""How long and how strict the faults are: short and generous in CI, the bars themselves by `make test-faults`."""

import os
from typing import Final

FULL: Final = os.environ.get("RATELIMIT_FAULTS") == "full"
"""Whether figures are wanted: `make test-faults` on a quiet machine."""

FAULT_SECONDS: Final = 60.0 if FULL else 3.0
"""For which a fault lasts."""

FACTOR: Final = 1.0 if FULL else 10.0
"""By which CI's bounds on time are wider than the bars: others use its cores at the same time."""

MEMORY_MB: Final = 50.0 if FULL else 300.0
"""By which resident memory may grow during a fault."""

REPORT: Final[list[str]] = []
"""Figures of this run: lines that are printed at its end."""
