"""Whether this server can decide, and in words why not."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple

Probe = Callable[[], Awaitable[None]]
"""Returns when the component answers, raises any exception when it does not."""

Describe = Callable[[str, Exception], Awaitable[str]]
"""Says what is wrong with a component whose probe raised that, as what follows its name in a sentence."""

_PROBE_SECONDS: Final = 1.0
"""Seconds between two probes of the components, and the longest that one may take to answer."""

EFFECTS: Final = {
    "redis": "calls are decided by on_store_failure",
    "postgres": "known keys are decided, unknown ones and changes are not",
    "workers": "no call is decided",
}
"""What it does to a server that decides that a component does not answer, or that no worker serves."""

CONTROL_EFFECTS: Final = {
    "redis": "usage is not moved to Postgres, and what limits have left is not known",
    "postgres": "nothing can be managed",
    "workers": "no admin method is served",
}
"""The same for a server of the control plane alone."""

_STORES: Final = ("redis", "postgres")

_NOT_OPENED: Final = "the operations process could not open its stores, see its log"


class Report(NamedTuple):
    """What /readyz answers."""

    ready: bool
    text: str


class Readiness:
    """What is known of this server's workers and stores.

    A server is ready while a worker of it serves and it does not drain. It decides without its stores: without one it
    is degraded, and ready.
    """

    def __init__(
        self,
        reports: Callable[[], Sequence[Mapping[str, str]]],
        wanted: int,
        effects: Mapping[str, str] = EFFECTS,
        describe: Describe | None = None,
    ) -> None:
        """REPORTS are those of the workers that serve: why each is degraded, by mode. There should be WANTED.

        EFFECTS say what it does that a component does not answer. Without DESCRIBE there is no more to say of one.
        """
        self._reports = reports
        self.wanted = wanted
        self._effects = effects
        self._describe = describe or _does_not_answer
        self._draining = False
        self.reasons: Callable[[], Sequence[str]] = tuple
        """Why else it decides otherwise than it should, in words."""
        self._faults: Mapping[str, str] | None = None
        """What is wrong with the components that do not answer, None before the first probe."""

    def drain(self) -> None:
        """Not be ready any more: the server is about to end."""
        self._draining = True

    def report(self) -> Report:
        """What is the case now."""
        if self._draining:
            return Report(ready=False, text="not ready: draining")
        reports = self._reports()
        if not reports:
            return Report(ready=False, text="not ready: no worker serves")
        if reasons := [*self._missing(len(reports)), *self._failures(), *_merge(reports).values(), *self.reasons()]:
            return Report(ready=True, text=f"degraded: {'; '.join(reasons)}")
        return Report(ready=True, text="ready")

    def serving(self) -> int:
        """How many workers serve."""
        return len(self._reports())

    def silent_effects(self) -> Mapping[str, str]:
        """What it does that a component did not answer the last time, by those that did not, as far as is known."""
        return {name: self._effects[name] for name in self._faults or ()}

    def faults(self) -> Mapping[str, str]:
        """What is wrong with the components that did not answer the last time, as far as is known."""
        return self._faults or {}

    def degraded(self) -> Mapping[str, str]:
        """Why workers do not decide as they should, by mode."""
        return _merge(self._reports())

    def answering(self) -> Mapping[str, bool]:
        """Of each store whether it answered the last time; none has before the first."""
        return {name: self._faults is not None and name not in self._faults for name in _STORES}

    async def probe(self, probes: Mapping[str, Probe]) -> None:
        """Find out once which components answer."""
        found = await asyncio.gather(*(self._fault(name, probe) for name, probe in probes.items()))
        self._faults = {name: fault for name, fault in zip(probes, found, strict=True) if fault}

    async def watch(self, probes: Mapping[str, Probe]) -> None:
        """Find it out each second, until cancelled."""
        while True:
            await self.probe(probes)
            await asyncio.sleep(_PROBE_SECONDS)

    def _missing(self, serving: int) -> list[str]:
        return [f"{serving} of {self.wanted} workers serve"] if serving < self.wanted else []

    def _failures(self) -> list[str]:
        if self._faults is None:
            return [_NOT_OPENED]
        return [f"{name} {fault}, {self._effects[name]}" for name, fault in self._faults.items()]

    async def _fault(self, name: str, probe: Probe) -> str:
        """What is wrong with a component, empty if it answers."""
        try:
            await asyncio.wait_for(probe(), _PROBE_SECONDS)
        except Exception as error:  # noqa: BLE001 for whatever reason, the component does not answer
            return await self._describe(name, error)
        return ""


def _merge(reports: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """One reason of each mode, with the number of workers that are degraded in this way."""
    found: dict[str, list[str]] = {}
    for report in reports:
        for mode, reason in report.items():
            found.setdefault(mode, []).append(reason)
    return {
        mode: f"{reasons[0]} ({len(reasons)} of {len(reports)} workers{_others(mode, len(reports) - len(reasons))})"
        for mode, reasons in found.items()
    }


def _others(mode: str, others: int) -> str:
    """What to know of the workers that are not degraded in a way that some are."""
    return "; one without calls does not notice" if others and mode == "store" else ""


async def _does_not_answer(_name: str, _error: Exception) -> str:
    return "does not answer"
