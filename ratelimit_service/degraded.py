"""What a process cannot do as it should, collected in one place for all who show it."""

from collections.abc import Callable, Mapping
from typing import Final

MODES: Final = ("feed", "store", "rows", "eviction", "lookups", "listing")
"""All modes that there are: each is a value of the label `mode` of the metric `ratelimit_degraded`."""


class DegradedModes:
    """The ways in which a process is degraded now, each with its reason.

    Whoever can be degraded adds itself once. What `current` returns is shown by /readyz, the metrics, the console and
    `doctor`: it is read about twice a second, and nothing is done per call.
    """

    def __init__(self) -> None:
        self._reasons: dict[str, Callable[[], str]] = {}

    def add(self, mode: str, reason: Callable[[], str]) -> None:
        """REASON returns, in words for an operator, what is the case and what it does to decisions; empty: nothing is.

        It must not wait, nor name a secret, key, subject or plan. MODE is one of MODES. Raises ValueError if it is
        none, or was added before.
        """
        if mode not in MODES or mode in self._reasons:
            raise ValueError(f"{mode!r} is not one of {', '.join(MODES)}, or was added before")
        self._reasons[mode] = reason

    def current(self) -> Mapping[str, str]:
        """The reason of each mode that there is now, in the order in which they were added."""
        return {mode: text for mode, reason in self._reasons.items() if (text := reason())}
