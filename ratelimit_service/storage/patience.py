"""Waiting for a database that may never answer."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Patience:
    """Waits for work, and when that takes too long, leaves it behind.

    `asyncio.timeout` is not enough here: it waits until the work has been cancelled, and a driver takes seconds to give
    in when its server has stopped answering.
    """

    def __init__(self) -> None:
        self._left_behind: set[asyncio.Task[Any]] = set()  # the event loop alone would not keep them alive

    async def within(self, seconds: float, work: Coroutine[Any, Any, T]) -> T:
        """Return what WORK returns. Raises TimeoutError after SECONDS: the work is cancelled and not waited for."""
        task = asyncio.create_task(work)
        try:
            done, _ = await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:
            self._leave(task)
            raise
        if not done:
            self._leave(task)
            raise TimeoutError(f"no answer within {seconds:g} s")
        return task.result()

    def _leave(self, task: asyncio.Task[Any]) -> None:
        task.cancel()
        farewell = asyncio.create_task(_see_off(task))
        self._left_behind.add(farewell)
        farewell.add_done_callback(self._left_behind.discard)


async def _see_off(task: asyncio.Task[Any]) -> None:
    """Wait for work that nobody waits for any more, and close what it brings too late, such as a connection."""
    await asyncio.wait({task})
    if task.cancelled() or task.exception() is not None:  # looking at it is enough: it is not an error to report
        return
    close = getattr(task.result(), "close", None)
    if close is not None:
        await close()
