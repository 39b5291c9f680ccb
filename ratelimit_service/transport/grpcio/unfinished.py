"""Messages that are waited for: for how long, and how many.

The library collects a message, of at most MAX_RECEIVED bytes, and hands it over when it is whole; until then nothing
is known of it. So what is bounded here is the waiting, and the calls that have waited the longest give way.
"""

import asyncio
from itertools import takewhile
from typing import Final, cast

from ratelimit_service.errors import DeadlineExceeded, Unavailable
from ratelimit_service.transport.grpcio.context import Context

MESSAGE_SECONDS: Final = 5.0
"""Seconds in which the message of a call must be whole once its headers have arrived."""

MAX_WAITING: Final = 100
"""Calls that may wait for their message for longer than PATIENCE_SECONDS. More, and those that have waited the longest
are given up."""

PATIENCE_SECONDS: Final = 1.0
"""Seconds within which no call is given up: messages that are on their way arrive sooner."""


class Unfinished:
    """The calls of one process that wait for their message."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Task[object], float] = {}
        self._given_up: set[asyncio.Task[object]] = set()
        self._next: asyncio.TimerHandle | None = None
        """When the next of those that are too many has waited for long enough."""

    async def read(self, context: Context) -> bytes | object:
        """The call's next message; anything but bytes if there is none.

        Raises DeadlineExceeded if it is not whole in time, and Unavailable if too many others are waited for.
        """
        loop = asyncio.get_running_loop()
        task = cast("asyncio.Task[object]", asyncio.current_task())
        now = loop.time()
        self._waiting[task] = now
        if len(self._waiting) > MAX_WAITING and self._next is None:
            self._give_up()
        try:
            async with asyncio.timeout_at(now + MESSAGE_SECONDS):
                return await context.read()
        except TimeoutError:
            raise DeadlineExceeded(
                f"the message was not whole {MESSAGE_SECONDS:.0f} seconds after the call had begun"
            ) from None
        except asyncio.CancelledError:
            if task not in self._given_up:
                raise
            task.uncancel()
            raise Unavailable(
                "too many calls have begun and not sent their message; send it at once", reason="TOO_MANY_AT_ONCE"
            ) from None
        finally:
            self._waiting.pop(task, None)
            self._given_up.discard(task)

    def since(self, began: float) -> int:
        """How many of these calls began since then, in monotonic seconds."""
        return sum(1 for _ in takewhile(lambda at: at >= began, reversed(self._waiting.values())))

    def _give_up(self) -> None:
        """Give up those that are too many and have waited the longest, also if no call comes any more.

        The library may hold MAX_RECEIVED bytes of each, so what they hold is what arrives in PATIENCE_SECONDS.
        """
        loop = asyncio.get_running_loop()
        self._next = None
        while len(self._waiting) > MAX_WAITING:
            task, began = next(iter(self._waiting.items()))
            if began + PATIENCE_SECONDS > loop.time():
                self._next = loop.call_at(began + PATIENCE_SECONDS, self._give_up)
                return
            del self._waiting[task]
            self._given_up.add(task)
            task.cancel()
