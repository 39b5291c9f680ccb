"""The switch that turns every limit into a shadow limit for a while: nothing is refused by a limit, all is counted."""

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Final, NamedTuple, Protocol

from ratelimit_service.decision.limit import MICRO
from ratelimit_service.decision.policy import Validity
from ratelimit_service.decision.ports import Change, ChangeKind, Clock
from ratelimit_service.module_log import ModuleLog

MAX_OFF_US: Final = 24 * 3_600 * MICRO
"""Microseconds for which limits are off at most. Then they refuse again by themselves."""

_MAX_SKEW_US: Final = 10 * MICRO
"""By how much the clocks of servers may differ, so that a switch that seems to be set later than now was not."""

_REMIND_SECONDS: Final = 60.0

_log = ModuleLog(__name__)


class Switch(NamedTuple):
    """One state of the switch, and who set it. Times are microseconds since 1970 UTC.

    No limit refuses before `off_until_us`, at most MAX_OFF_US after `changed_us`, when it was set. 0: limits refuse,
    and it was never set.
    """

    off_until_us: int = 0
    changed_us: int = 0
    actor: str = ""
    comment: str = ""

    @classmethod
    def of(cls, off_until_us: int, changed_us: int, actor: str, comment: str) -> "Switch":
        """The switch as it was stored. It ends in time after it was set, whatever was written."""
        return cls(min(off_until_us, changed_us + MAX_OFF_US), changed_us, actor, comment)

    def at(self, now_us: int) -> "Switch":
        """The same as it counts NOW. One that was set later, by a clock that was far ahead, counts as set now.

        So it ends in time too, and whatever is set from now on takes its place.
        """
        if self.changed_us <= now_us + _MAX_SKEW_US:
            return self
        return self._replace(off_until_us=min(self.off_until_us, now_us + MAX_OFF_US), changed_us=now_us)

    def is_off(self, now_us: int) -> bool:
        """Whether no limit refuses now."""
        return now_us < self.off_until_us

    def summary(self) -> str:
        """What a switch that is off means, for whoever asks."""
        until = datetime.fromtimestamp(self.off_until_us / MICRO, UTC)
        return f"enforcement is off until {until:%Y-%m-%d %H:%M:%S}Z, no limit refuses calls"

    def words(self) -> str:
        """The same for operators, with who turned it off, and why."""
        return f"{self.summary()}; turned off by {self.actor}{f': {self.comment}' if self.comment else ''}"


class Compiled(Protocol):
    """What is compiled by the switch, and has to be compiled again when it changes."""

    async def recompile(self) -> None:
        """Compile everything again before it is used next."""
        ...


class SwitchSource(Protocol):
    """Where the switch of all servers is stored."""

    async def read(self) -> Switch:
        """Read it. Raises StoreUnavailable."""
        ...


class Enforcement:
    """The switch as one process knows it: that of all servers, and this server's own. The one that was set last counts.

    Policies and rules are compiled by it, so that a call pays nothing for it; what is compiled while limits are off is
    valid until they are on again.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._shared = self._shared_as_read = Switch()
        self._local = self._local_as_read = Switch()
        self._compiled: list[Compiled] = []

    def add(self, *compiled: Compiled) -> None:
        """Have these compiled again at each change."""
        self._compiled += compiled

    @property
    def switch(self) -> Switch:
        """The switch that counts."""
        return max(self._shared, self._local, key=lambda switch: switch.changed_us)

    def off_until_us(self) -> int:
        """Until when no limit refuses, in microseconds since 1970 UTC. 0: limits refuse."""
        switch = self.switch
        return switch.off_until_us if switch.is_off(self._clock.now_us()) else 0

    def is_valid(self, validity: Validity) -> bool:
        """Whether what was compiled by the switch may still be used."""
        return validity.is_current(self._clock)

    @property
    def off(self) -> Switch | None:
        """The switch that counts if no limit refuses now; None while they do."""
        switch = self.switch
        return switch if switch.is_off(self._clock.now_us()) else None

    def reasons(self) -> list[str]:
        """Why calls are decided otherwise than their limits say, for whoever asks; empty while limits refuse."""
        return [self.off.summary()] if self.off else []

    def explained(self) -> list[str]:
        """The same for operators."""
        return [self.off.words()] if self.off else []

    async def set_shared(self, switch: Switch) -> None:
        """Take over the switch of all servers."""
        if switch != self._shared_as_read:  # read again, one that was set by a clock ahead would begin anew
            self._shared_as_read = switch
            await self._put(switch, self._local)

    async def set_local(self, switch: Switch) -> None:
        """Take over this server's own switch."""
        if switch != self._local_as_read:
            self._local_as_read = switch
            await self._put(self._shared, switch)

    async def watch(self) -> None:
        """Say in the log when limits are on again, and each minute that they are not, until cancelled.

        Follows a clock that was ahead, too.
        """
        reminded = 0.0
        loop = asyncio.get_running_loop()
        was_off = False
        while True:
            await self._put(self._shared, self._local)  # the clock may have been set back
            reasons = self.explained()
            if reasons and (not was_off or loop.time() - reminded >= _REMIND_SECONDS):
                _log.warning(reasons[0])
                reminded = loop.time()
            elif was_off and not reasons:
                _log.warning("enforcement is on again: limits refuse calls")
            was_off = bool(reasons)
            await asyncio.sleep(1)

    async def _put(self, shared: Switch, local: Switch) -> None:
        now_us = self._clock.now_us()
        before = self.switch
        self._shared, self._local = shared.at(now_us), local.at(now_us)
        if self.switch != before:
            for each in self._compiled:
                await each.recompile()


class SwitchUpdater:
    """Reads the switch of all servers again when the feed announces a change of it."""

    def __init__(self, source: SwitchSource, enforcement: Enforcement, *compiled: Compiled) -> None:
        """COMPILED is what is compiled by the switch, whoever turns it."""
        enforcement.add(*compiled)
        self._source = source
        self._enforcement = enforcement

    async def refresh_all(self) -> None:
        """Read it. Raises StoreUnavailable."""
        await self._enforcement.set_shared(await self._source.read())

    async def apply(self, changes: Collection[Change]) -> None:
        """Read it if it is among CHANGES. Raises StoreUnavailable."""
        if any(change.kind is ChangeKind.ENFORCEMENT for change in changes):
            await self.refresh_all()
