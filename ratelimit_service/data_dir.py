"""Where `dev` keeps its state: known to commands that start without reading the settings."""

from pathlib import Path
from typing import Final

DEFAULT_DATA_DIR: Final = Path(".ratelimit")
"""The default of RATELIMIT_DATA_DIR, below the working directory."""
