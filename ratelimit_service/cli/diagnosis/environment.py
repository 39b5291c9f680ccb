"""Variables that look like settings and are none."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from ratelimit_service.cli.configured import variable
from ratelimit_service.cli.diagnosis.finding import Finding
from ratelimit_service.cli.target import TlsFiles
from ratelimit_service.settings import Settings

_OF_COMMANDS = {"RATELIMIT_SERVER", "RATELIMIT_TOKEN", "RATELIMIT_API_KEY", "RATELIMIT_TRACEBACK"}


def examine_environment(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Warn of each RATELIMIT_ variable that nothing reads, which is most often a misspelt one."""
    known = {variable(name) for name in Settings.model_fields} | _OF_COMMANDS
    known |= {f"RATELIMIT_SERVER_{name.upper()}" for name in TlsFiles.model_fields}
    for name in sorted(environment):
        if name.upper().startswith("RATELIMIT_") and name.upper() not in known:
            near = get_close_matches(name.upper(), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield Finding.warning("variables", f"{name} is no setting and is not read{hint}")
