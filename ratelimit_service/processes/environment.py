"""How settings reach the processes of a server: by their environment, so that no secret is on a command line."""

import os
from pathlib import Path

from pydantic import SecretStr

from ratelimit_service.metrics import DIRECTORY_VARIABLE
from ratelimit_service.settings import Settings

_PREFIX = "RATELIMIT_"


def child_environment(settings: Settings, metrics: Path) -> dict[str, str]:
    """This process's environment with exactly these settings, and the folder where workers keep their metrics."""
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(_PREFIX)}
    return inherited | _variables(settings) | {DIRECTORY_VARIABLE: str(metrics)}


def _variables(settings: Settings) -> dict[str, str]:
    return {_PREFIX + name.upper(): _text(value) for name, value in settings if value is not None}


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
