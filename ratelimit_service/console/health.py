"""The components of this server as pages show them: their state, the last value, and how old it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class State(StrEnum):
    """Whether a component works. The value is the name of its icon."""

    OK = "ok"
    DEGRADED = "degraded"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Component:
    """A part of the service. `value` is its last value, `note` more about it, `read_us` when it was read.

    `effect` says what its failure does to decisions; empty while it is OK.
    """

    name: str
    state: State
    value: str
    note: str
    read_us: int
    effect: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """The components of this server.

    `usage_lag_us` is how far counts in Postgres are behind, in microseconds; None if it is not known.
    """

    components: Sequence[Component]
    usage_lag_us: int | None

    @property
    def failing(self) -> list[Component]:
        """Those that do not work, the worst first."""
        ordered = sorted(self.components, key=lambda component: component.state is not State.DOWN)
        return [component for component in ordered if component.state is not State.OK]


class HealthReader(Protocol):
    """Reads the state of the components."""

    async def read(self) -> Health:
        """Read it, at most a second or two old. Never raises."""
        ...
