"""The files of deploy/, and the names of settings that they may use."""

import os
import tomllib
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from ratelimit_service.settings import Settings

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
CHART: Final = DEPLOY / "helm" / "ratelimit-service"
VERSION: Final[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

FULL: Final = os.environ.get("RATELIMIT_DEPLOY") == "full"
"""Whether everything is wanted, as by `make test-deploy`, or what takes seconds."""

SETTINGS: Final = {f"RATELIMIT_{name.upper()}" for name in Settings.model_fields}
SECRETS: Final = {
    f"RATELIMIT_{name.upper()}" for name, field in Settings.model_fields.items() if field.annotation is SecretStr
}
SECRET_FILES: Final = {f"{name}_FILE" for name in SECRETS}
"""What the image's entry point reads instead of a secret."""
