"""A cache of what many pages show: read once for all that ask at a time, and kept for a while."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, TypeVar

T = TypeVar("T")


class ReadCache:
    """Results that are read once for all that show them, and are kept for a while."""

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._found: dict[object, tuple[float, asyncio.Task[Any]]] = {}

    async def get(self, name: object, seconds: float, read: Callable[[], Awaitable[T]]) -> T:
        """Return what READ returned, at most SECONDS ago. NAME is one of a bounded number. Raises what READ raises."""
        until, task = self._found.get(name, (0.0, None))
        if task is None or (task.done() and (self._now() >= until or task.cancelled() or task.exception())):
            task = asyncio.ensure_future(_awaited(read))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._found[name] = (self._now() + seconds, task)
        found: T = await asyncio.shield(task)
        return found


async def _awaited(read: Callable[[], Awaitable[T]]) -> T:
    return await read()
