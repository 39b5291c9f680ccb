"""What is imported at a start, and what is not."""

import subprocess
import sys

SCRIPT = """
import sys
from ratelimit_service.importing import without_rich
with without_rich():
    import ratelimit_service.logs
assert not [name for name in sys.modules if name.split(".")[0] in {"rich", "pygments"}], sorted(sys.modules)
from rich.table import Table
"""


def test_structlog_comes_without_rich() -> None:
    """Rich is a good part of the time of a start, and can be imported afterwards: a table on a terminal needs it."""
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
