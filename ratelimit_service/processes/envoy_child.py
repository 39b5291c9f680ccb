"""An Envoy that the supervisor started."""

import asyncio
from time import monotonic
from typing import Final

from ratelimit_service.processes.child import Child
from ratelimit_service.processes.envoy_admin import EnvoyAdmin
from ratelimit_service.startup import StartupFault

_LOOK_EVERY: Final = 0.02
_IDLE_WAIT: Final = 2.0
"""Seconds that connections without a call get to have one more, whose answer then sends the caller elsewhere, and that
proxied calls get to end: all of them are short but those that watch health, which never end."""


class EnvoyChild:
    """An Envoy: it serves when its application says so and it takes connections; it leaves when its callers have."""

    def __init__(self, child: Child, admin: EnvoyAdmin) -> None:
        self._child = child
        self._admin = admin
        self.name = child.name
        self.pid = child.pid
        self.ended = child.ended
        self.kill = child.kill
        self.announce_drain = child.tell_to_leave

    async def ready(self, within: float) -> None:
        """Wait until it serves. Raises StartupFault if it does not within so many seconds."""
        until = monotonic() + within
        await self._child.ready(within)
        while True:
            if await self._live():
                return
            if monotonic() >= until:
                raise StartupFault(f"{self.name} takes no connections after {within:.0f} seconds; see its log")
            await asyncio.sleep(_LOOK_EVERY)

    async def drain(self, within: float) -> None:
        """Send its callers elsewhere, wait at most WITHIN seconds until their calls have ended, and end it.

        The port is closed first: who is sent away must not come back.
        """
        until = monotonic() + within
        idle_until = monotonic() + min(within, _IDLE_WAIT)
        try:
            await self._admin.close_listeners()
            await self._admin.send_callers_away()
            self._child.tell_to_leave()
            while monotonic() < until:
                connections, calls = await self._admin.active()
                if not connections or (not calls and monotonic() >= idle_until):
                    break
                await asyncio.sleep(_LOOK_EVERY)
        except OSError:
            pass  # it has ended, or does not answer: there is nothing to wait for
        await self._child.stop(0)

    async def _live(self) -> bool:
        try:
            return await self._admin.live()
        except OSError:
            return False
