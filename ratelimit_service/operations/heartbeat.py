"""How a server knows which of its workers serve: each renews the time of a file while its event loop runs."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from time import monotonic_ns
from typing import Final

HEARTBEATS_VARIABLE: Final = "RATELIMIT_HEARTBEATS_DIR"
"""The environment variable with the folder of these files. It is on this machine, and of this server alone."""

_SECONDS: Final = 1.0
"""Between two heartbeats."""

STALE_SECONDS: Final = 5.0
"""Age of the last heartbeat from which on a worker counts as hung."""


class Heartbeat:
    """A worker's side. Times are those of the monotonic clock, which the processes of a machine share."""

    def __init__(self) -> None:
        self._file = Path(os.environ[HEARTBEATS_VARIABLE]) / str(os.getpid())
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, when this process serves."""
        self._renew()
        self._task = asyncio.create_task(self._keep())

    def stop(self) -> None:
        """End, when this process takes no more calls."""
        if self._task is not None:
            self._task.cancel()
        self._file.unlink(missing_ok=True)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS)
            with suppress(OSError):  # the folder is gone with its supervisor, or the disk full: that may not end calls
                self._renew()

    def _renew(self) -> None:
        self._file.touch()
        now = monotonic_ns()
        os.utime(self._file, ns=(now, now))


def serving_workers(folder: Path) -> int:
    """How many workers serve."""
    oldest = monotonic_ns() - int(STALE_SECONDS * 1e9)
    serving = 0
    for file in folder.iterdir():
        with suppress(FileNotFoundError):  # it has just ended
            serving += file.stat().st_mtime_ns >= oldest
    return serving


def forget_heartbeat(pid: int, folder: Path) -> None:
    """Drop that of the process that had this id."""
    (folder / str(pid)).unlink(missing_ok=True)
