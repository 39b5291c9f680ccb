"""How a server knows which of its workers serve, and how well: each renews a file while its event loop runs."""

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic_ns
from typing import BinaryIO, Final

import structlog

HEARTBEATS_VARIABLE: Final = "RATELIMIT_HEARTBEATS_DIR"
"""The environment variable with the folder of these files. It is on this machine, and of this server alone."""

_SECONDS: Final = 1.0
"""Between two heartbeats."""

STALE_SECONDS: Final = 5.0
"""Age of the last heartbeat from which on a worker counts as hung."""

_BYTES: Final = 4096
_READS: Final = 3
_UNREADABLE: Final = {"report": "what a worker reports cannot be read: free space in its temporary folder"}

_log = structlog.stdlib.get_logger(__name__)


class Heartbeat:
    """A worker's side. Times are those of the monotonic clock, which the processes of a machine share.

    The file holds what `report` returns: the ways in which this worker is degraded, with their reasons. It is opened
    and filled up once: when the disk is full, or no descriptor is left, there is most to report.
    """

    def __init__(self, report: Callable[[], Mapping[str, str]]) -> None:
        self._path = Path(os.environ[HEARTBEATS_VARIABLE]) / str(os.getpid())
        self._report = report
        self._file: BinaryIO | None = None
        self._written = ""
        self._warned = False
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def start(self) -> None:
        """Begin, when this process serves."""
        self._try_renew(json.dumps(self._report()))
        self._task = asyncio.create_task(self._keep())

    def stop(self) -> None:
        """End, when this process takes no more calls."""
        self._stopped = True  # not by a cancel: a renewal that has begun in its thread goes on, and would make it again
        self._path.unlink(missing_ok=True)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS)
            # Beside the event loop: a disk that is slow may not keep calls waiting.
            await asyncio.to_thread(self._try_renew, json.dumps(self._report()))
            if self._stopped:
                self._path.unlink(missing_ok=True)
                return

    def _try_renew(self, text: str) -> None:
        try:
            self._renew(text)
        except OSError as error:  # the folder is gone with its supervisor, or the disk full: that may not end calls
            if not self._warned:
                _log.warning("cannot write that this process serves", file=str(self._path), error=error.strerror)
            self._warned = True
        else:
            self._warned = False

    def _renew(self, text: str) -> None:
        if self._file is None or not self._path.exists():
            self._open()
        assert self._file is not None  # noqa: S101  for mypy
        try:
            if text != self._written:
                content = text.encode().ljust(_BYTES)
                self._file.seek(0)
                self._file.write(content)
                self._file.truncate(len(content))
                self._written = text
        finally:  # it serves, whether or not it can say how well
            now = monotonic_ns()
            os.utime(self._file.fileno(), ns=(now, now))

    def _open(self) -> None:
        part = self._path.with_name(f".{self._path.name}")  # readers never see a part of it
        if self._file is not None:
            self._file.close()
        self._file = part.open("wb", buffering=0)
        self._written = ""
        with suppress(OSError):  # it is written to once there is space
            self._file.write(b"{}".ljust(_BYTES))
        os.utime(self._file.fileno(), ns=(0, 0))
        part.replace(self._path)


def reports(folder: Path) -> list[Mapping[str, str]]:
    """What each worker that serves reports: the ways in which it is degraded, with their reasons."""
    oldest = monotonic_ns() - int(STALE_SECONDS * 1e9)
    found = []
    for file in folder.glob("[!.]*"):
        with suppress(FileNotFoundError):  # it has just ended
            if file.stat().st_mtime_ns >= oldest:
                found.append(_read(file))
    return found


def _read(file: Path) -> Mapping[str, str]:
    for _ in range(_READS):
        with suppress(ValueError):  # it is being written
            report: Mapping[str, str] = json.loads(file.read_bytes())
            return report
    return _UNREADABLE


def serving_workers(folder: Path) -> int:
    """How many workers serve."""
    return len(reports(folder))


def forget_heartbeat(pid: int, folder: Path) -> None:
    """Drop that of the process that had this id."""
    (folder / str(pid)).unlink(missing_ok=True)
