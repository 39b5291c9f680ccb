"""Work beside the calls of a store, which goes on for as long as the store is open."""

import asyncio
from abc import ABC, abstractmethod


class Watch(ABC):
    """Watches the servers of a store. Belongs to the running loop."""

    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """End it, if it has begun."""
        if self._task is not None:
            self._task.cancel()

    @abstractmethod
    async def _run(self) -> None:
        """Watch until cancelled."""
