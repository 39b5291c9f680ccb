"""Turns of those who only read: however many they are and however much they read, changes find a way."""

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from ratelimit_service.errors import Unavailable

READERS: Final = 2
"""Calls of viewers that a process serves at a time. Each may hold a connection, and the event loop for a page."""

PATIENCE_SECONDS: Final = 3.0
"""For which the others wait for their turn, in order."""

T = TypeVar("T")


class Turns:
    """Serves a few calls at a time. Belongs to the running loop."""

    def __init__(self, readers: int = READERS, patience: float = PATIENCE_SECONDS) -> None:
        """PATIENCE is in seconds."""
        self._free = asyncio.Semaphore(readers)
        self._patience = patience

    async def take(self, call: Awaitable[T]) -> T:
        """Return what CALL returns, once it has its turn. Raises Unavailable (TOO_MANY_AT_ONCE) if that does not come.

        CALL is a coroutine that has not begun.
        """
        try:
            async with asyncio.timeout(self._patience):
                await self._free.acquire()
        except BaseException as error:
            if asyncio.iscoroutine(call):
                call.close()
            if not isinstance(error, TimeoutError):
                raise
            raise Unavailable(
                "too many calls of viewers at once; try again in a few seconds", reason="TOO_MANY_AT_ONCE"
            ) from None
        try:
            return await call
        finally:
            self._free.release()
