"""Everybody's parent: starts the processes of a server, and ends them well."""

import asyncio
from collections.abc import Awaitable, Iterable, Sequence

import structlog

from ratelimit_service.processes.slot import Slot
from ratelimit_service.startup import StartupFault

_log = structlog.stdlib.get_logger(__name__)


class Supervisor:
    """Keeps the processes of one server running.

    `front` are the workers on the public port, each of which can answer for the others. `back` is what they need
    behind them: it starts before them and ends after them.
    """

    def __init__(self, front: Sequence[Slot], back: Sequence[Slot]) -> None:
        self._front = front
        self._back = back
        self._one_at_a_time = asyncio.Lock()

    async def open(self) -> None:
        """Start everything, and return when all of it serves. Raises StartupFault."""
        await _all(slot.open() for slot in self._back)
        await _all(slot.open() for slot in self._front)

    async def restart(self, within: float) -> None:
        """Replace every process, one after the other, so that there is always one that answers.

        The calls of each get at most WITHIN seconds to end. Stops at the first process that cannot be replaced: the
        others go on as they are.
        """
        async with self._one_at_a_time:
            _log.info("rolling restart begins")
            try:
                for slot in (*self._back, *self._front):
                    await slot.replace(within)
            except StartupFault as fault:
                _log.error("rolling restart stopped: what runs goes on", fault=str(fault))
            else:
                _log.info("rolling restart done")

    async def drain(self, within: float) -> None:
        """End everything; calls get at most WITHIN seconds."""
        _log.info("draining", seconds=within)
        for slot in self._back:
            slot.announce_drain()
        await _all(slot.drain(within) for slot in self._front)
        await _all(slot.drain(within) for slot in self._back)

    def kill(self) -> None:
        """End everything at once."""
        for slot in (*self._front, *self._back):
            slot.kill()


async def _all(works: Iterable[Awaitable[None]]) -> None:
    """Do all of it, to the end, and only then raise what went wrong first."""
    for result in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
