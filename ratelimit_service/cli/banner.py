"""What `dev` prints when it is ready: how to ask for a first decision."""

import shlex
import sys
from pathlib import Path

from ratelimit_service.cli.address import dialable
from ratelimit_service.embedded.dev_state import DevState
from ratelimit_service.processes.door import Door
from ratelimit_service.settings import Settings


def banner(settings: Settings, state: DevState, door: Door) -> str:
    """The lines, with commands that can be pasted as they are."""
    address = dialable(settings.listen)
    body = f'{{"api_key":"{state.api_key}","resource":"orders.create"}}'
    metrics = f"metrics on http://{dialable(settings.metrics_listen)}/metrics; " if settings.metrics_listen else ""
    return f"""
ratelimit-service serves on {settings.listen}. Door {door.name}: {door.reason}.
{metrics}state and secrets are in {settings.data_dir}/ (dev.json has the key and the admin token).

The demo key, on plan free:
  {state.api_key}

Ask for a decision:
  grpcurl -plaintext -d '{body}' {address} ratelimit.v1.RateLimitService/CheckLimit
  {_command(settings)} check {state.api_key} --resource orders.create

Ctrl-C stops it; the next start keeps everything.
"""


def _command(settings: Settings) -> str:
    """This very command, so that the line works in any shell on this folder."""
    program = Path(sys.argv[0])
    shown = str(program.relative_to(Path.cwd())) if program.is_relative_to(Path.cwd()) else str(program)
    if settings.data_dir != Settings.model_fields["data_dir"].default:
        return f"RATELIMIT_DATA_DIR={shlex.quote(str(settings.data_dir))} {shlex.quote(shown)}"
    return shlex.quote(shown)
