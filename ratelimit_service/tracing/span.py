"""A span as it is recorded: plain values, since the hot path makes it, and what is exported is made elsewhere."""

from collections.abc import Mapping, Sequence
from enum import Enum
from time import time_ns
from typing import NamedTuple, Protocol, TypeAlias

Value: TypeAlias = str | int | float | bool
"""The value of an attribute."""


class Kind(Enum):
    """What a span is of."""

    SERVER = "server"
    CLIENT = "client"
    INTERNAL = "internal"


class SpanRef(NamedTuple):
    """The ids of a span: in which trace it is, and which of it."""

    trace_id: int
    span_id: int


class Span(NamedTuple):
    """One span. `parent_id` is 0 for one without a parent, which is in another process if `remote`.

    `state` is the trace's `tracestate`. Times are nanoseconds since 1970 UTC. `error` says what has failed, empty if
    nothing has.
    """

    name: str
    kind: Kind
    ref: SpanRef
    parent_id: int
    remote: bool
    state: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Value]
    links: Sequence[SpanRef] = ()
    error: str = ""


class Spans(Protocol):
    """Where spans go."""

    def add(self, span: Span, /) -> None:
        """Take a span. Never waits, never fails."""
        ...


def ended(seconds: float) -> tuple[int, int]:
    """The start and the end, in nanoseconds since 1970 UTC, of what has taken so many SECONDS until now."""
    end = time_ns()
    return end - round(seconds * 1e9), end
