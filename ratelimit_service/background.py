"""Background work that runs as long as the server."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

_PAUSE_SECONDS = 1.0
"""Before work that failed is restarted."""

_log = structlog.stdlib.get_logger(__name__)


class Background:
    """Keeps work running: holds references to its tasks, and restarts, with a line in the log, what has failed."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run WORK, which does not return by itself, until `close`."""
        task = asyncio.create_task(keep_running(name, work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel all work and wait until it has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def keep_running(
    name: str, work: Callable[[], Awaitable[None]], *, until: tuple[type[Exception], ...] = ()
) -> None:
    """Run WORK, and restart it, with a line in the log, whenever it fails or returns. Returns once it raises UNTIL."""
    while True:
        try:
            await work()
        except until:
            return
        except Exception:  # noqa: BLE001 for whatever reason, the work must be restarted
            _log.exception("background work failed; restarting it", work=name)
        else:
            _log.error("background work ended; restarting it", work=name)
        await asyncio.sleep(_PAUSE_SECONDS)
