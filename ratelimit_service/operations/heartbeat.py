"""How a server knows which of its workers serve, and how well: each renews a file while its event loop runs."""

import asyncio
import json
import os
from collections.abc import Callable, Mapping
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
    """A worker's side. Times are those of the monotonic clock, which the processes of a machine share.

    The file holds what `report` returns: the ways in which this worker is degraded, with their reasons.
    """

    def __init__(self, report: Callable[[], Mapping[str, str]]) -> None:
        self._file = Path(os.environ[HEARTBEATS_VARIABLE]) / str(os.getpid())
        self._report = report
        self._written = ""
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def start(self) -> None:
        """Begin, when this process serves."""
        self._renew(json.dumps(self._report()))
        self._task = asyncio.create_task(self._keep())

    def stop(self) -> None:
        """End, when this process takes no more calls."""
        self._stopped = True  # not by a cancel: a renewal that has begun in its thread goes on, and would make it again
        self._file.unlink(missing_ok=True)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS)
            with suppress(OSError):  # the folder is gone with its supervisor, or the disk full: that may not end calls
                # Beside the event loop: a disk that is slow may not keep calls waiting.
                await asyncio.to_thread(self._renew, json.dumps(self._report()))
            if self._stopped:
                self._file.unlink(missing_ok=True)
                return

    def _renew(self, text: str) -> None:
        now, file = monotonic_ns(), self._file
        if text == self._written and file.exists():
            os.utime(file, ns=(now, now))
            return
        part = file.with_name(f".{file.name}")  # readers never see a part of it
        part.write_text(text)
        os.utime(part, ns=(now, now))
        part.replace(file)
        self._written = text


def reports(folder: Path) -> list[Mapping[str, str]]:
    """What each worker that serves reports: the ways in which it is degraded, with their reasons."""
    oldest = monotonic_ns() - int(STALE_SECONDS * 1e9)
    found = []
    for file in folder.glob("[!.]*"):
        with suppress(FileNotFoundError):  # it has just ended
            if file.stat().st_mtime_ns >= oldest:
                found.append(json.loads(file.read_text()))
    return found


def serving_workers(folder: Path) -> int:
    """How many workers serve."""
    return len(reports(folder))


def forget_heartbeat(pid: int, folder: Path) -> None:
    """Drop that of the process that had this id."""
    (folder / str(pid)).unlink(missing_ok=True)
