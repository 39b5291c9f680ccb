"""The call of which more is recorded, and how whoever serves it finds it."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final

from ratelimit_service.tracing.context import MAX_STATE, Parent, new_span_id, new_trace_id
from ratelimit_service.tracing.span import SpanRef, Value

_NOTHING: Final[Mapping[str, Value]] = {}


class SampledCall:
    """What is recorded of one call, for its span if it is `traced`, and for a line of the access log if `logged`.

    `follows` is set while it is open whether it is traced only because its caller is: once the caller is known.
    """

    __slots__ = (
        *("attributes", "batches", "caller", "error", "follows", "logged", "open", "parent", "peer", "queued"),
        *("ref", "state", "stored", "traced"),
    )

    def __init__(self, parent: Parent | None, *, traced: bool, logged: bool, follows: bool = False) -> None:
        self.parent = parent
        self.traced = traced
        self.logged = logged
        self.follows = follows
        self.ref = SpanRef(new_trace_id() if parent is None else parent.trace_id, new_span_id())
        self.state = ""
        self.peer = ""
        self.caller = ""
        self.error = ""
        """The reason of the error that it has failed with."""
        self.attributes = _NOTHING
        """What its response says."""
        self.batches: list[SpanRef] = []
        """The runs of the bucket store's script that it had charges in."""
        self.queued = 0.0
        """Seconds that it has waited until these began."""
        self.stored = 0.0
        """Seconds that these have taken."""
        self.open = True
        """False once it was responded to: what it has started may go on, and is no part of it."""

    def take_state(self, tracestate: str | bytes | None) -> None:
        """Take the `tracestate` of its caller's trace over, if that has one."""
        if tracestate is None or self.parent is None or len(tracestate) > MAX_STATE:
            return
        self.state = tracestate.decode("ascii", "replace") if isinstance(tracestate, bytes) else tracestate


_CURRENT: Final[ContextVar[SampledCall | None]] = ContextVar("sampled call", default=None)

current = _CURRENT.get
"""The sampled call that the running task serves, perhaps one that is over; None if there is none."""


def traced() -> SampledCall | None:
    """The call that the running task serves, if it is open and traced."""
    call = _CURRENT.get()
    return call if call is not None and call.traced and call.open else None


class serving:  # noqa: N801  as a function that makes a context manager, which takes four times as long
    """Have CALL be what the running task serves, until the block ends; it is over then."""

    __slots__ = ("_call", "_token")

    def __init__(self, call: SampledCall) -> None:
        self._call = call

    def __enter__(self) -> None:
        self._token = _CURRENT.set(self._call)

    def __exit__(self, *_raised: object) -> None:
        self._call.open = False
        _CURRENT.reset(self._token)
