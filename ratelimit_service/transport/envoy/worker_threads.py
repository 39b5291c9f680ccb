"""How busy Envoy's worker threads are, which share this process with the embedded Python."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic_ns
from typing import Final

_THREADS: Final = Path("/proc/self/task")
_WORKER: Final = "wrk:"
_NEVER_IDLE: Final = 0.97
"""The share of the time, running or waiting for a core, above which a thread is taken never to have been idle."""


class WorkerThreads:
    """Whether a worker has more to do than it can: what it does not get to waits in the kernel, unseen.

    From Linux's figures of its scheduler (`schedstat`), which are read a few times a second; the calls cost nothing.
    """

    def __init__(self, threads: Path = _THREADS, now: Callable[[], int] = monotonic_ns) -> None:
        """THREADS has a folder for each thread of this process. NOW is in nanoseconds."""
        self._threads = threads
        self._now = now
        self._at = 0
        self._busy: dict[str, int] = {}
        self._found: list[Path] = []

    def saturated(self) -> bool:
        """Whether one of them was never idle since the last time. True if that cannot be known."""
        now, busy = self._now(), self._read()
        seconds, before = now - self._at, self._busy
        self._at, self._busy = now, busy
        if not busy:
            return True
        return any(time - before.get(name, time) >= _NEVER_IDLE * seconds for name, time in busy.items())

    def _read(self) -> dict[str, int]:
        """The nanoseconds for which each worker has run, or waited for a core."""
        busy: dict[str, int] = {}
        with suppress(OSError, ValueError):
            if not self._found:
                self._found = [one for one in self._threads.iterdir() if _is_worker(one)]
            for thread in self._found:
                run, waited, _ = (thread / "schedstat").read_text().split()
                busy[thread.name] = int(run) + int(waited)
        return busy


def _is_worker(thread: Path) -> bool:
    return (thread / "comm").read_text().startswith(_WORKER)
