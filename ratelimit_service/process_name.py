"""What a process of a server is called, where it is shown beside others."""

import os
from typing import Final

PROCESS_VARIABLE: Final = "RATELIMIT_PROCESS"
"""The environment variable with the name that the supervisor gave it."""


def process_name() -> str:
    """`worker 1`, `envoy 1`, `control plane`, `health`, `http`, `operations`; `main` without a supervisor."""
    return os.environ.get(PROCESS_VARIABLE, "main")
