"""The switch of one server: a file in its folder, which the supervisor writes and each of its processes follows."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog

from ratelimit_service.decision.enforcement import Switch

SWITCH_VARIABLE: Final = "RATELIMIT_SWITCH_FILE"
"""The environment variable with the path of the file. A process without it belongs to no server that has one."""

_POLL_SECONDS: Final = 0.25

_log = structlog.stdlib.get_logger(__name__)


def write_switch(path: Path, switch: Switch) -> None:
    """Replace what is in the file. Raises OSError."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(switch), encoding="utf-8")
    new.replace(path)


def read_switch(path: Path) -> Switch:
    """The switch in the file. Limits refuse if there is none, or if it cannot be read."""
    try:
        off_until_us, changed_us, actor, comment = json.loads(path.read_text(encoding="utf-8"))
        return Switch.of(int(off_until_us), int(changed_us), str(actor), str(comment))
    except FileNotFoundError:
        return Switch()
    except (OSError, ValueError, TypeError) as error:
        _log.error("the switch of this server cannot be read; limits refuse calls", why=type(error).__name__)
        return Switch()


async def follow_switch(path: Path, follow: Callable[[Switch], Awaitable[None]]) -> None:
    """Call FOLLOW with the switch in the file, now and whenever it has changed, until cancelled."""
    known: tuple[int, int] | None = None
    while True:
        found = _version(path)
        if found != known:
            await follow(read_switch(path))
            known = found
        await asyncio.sleep(_POLL_SECONDS)


def switch_file() -> Path | None:
    """The file of this process's server."""
    path = os.environ.get(SWITCH_VARIABLE)
    return Path(path) if path else None


def _version(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
