"""Work that goes on beside the calls for as long as a server lives."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

_PAUSE_SECONDS = 1.0
"""Before work that failed begins again."""

_log = structlog.stdlib.get_logger(__name__)


class Background:
    """Keeps work going: holds on to its tasks, and begins again, with a line in the log, what has failed."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do WORK, which goes on for ever, until `close`."""
        task = asyncio.create_task(_keep_going(name, work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End all work and wait until it has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _keep_going(name: str, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except Exception:  # noqa: BLE001 whatever it was, the work must go on
            _log.exception("background work failed; it begins again", work=name)
        else:
            _log.error("background work ended; it begins again", work=name)
        await asyncio.sleep(_PAUSE_SECONDS)
