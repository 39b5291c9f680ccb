"""W3C trace context: where a caller's trace goes on, as it says in the metadata `traceparent` and `tracestate`."""

import re
from random import getrandbits
from typing import Final, NamedTuple

MAX_STATE: Final = 512
"""Characters of `tracestate` that are passed on, which is what the standard asks for; a longer one is left out."""

_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_VERSION_00: Final = 55
"""Characters of a `traceparent` of the version that there is. Later ones may only append to it."""

_FLAGS_END: Final = 54
_SAMPLED: Final = 1


class Parent(NamedTuple):
    """A caller's span. `sampled`: whether the caller records it."""

    trace_id: int
    span_id: int
    sampled: bool


def parse(traceparent: str) -> Parent | None:
    """The caller's span, None if the text is none: then the trace begins here."""
    form = _FORM.fullmatch(traceparent)
    if form is None:
        return None
    version, trace_id, span_id, flags, more = form.groups()
    if version == "ff" or (version == "00" and more is not None):
        return None
    parent = Parent(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & _SAMPLED))
    return parent if parent.trace_id and parent.span_id else None


def is_unsampled(traceparent: str) -> bool:
    """Whether it says that the caller records nothing, as most do. Nothing else of it is checked."""
    return len(traceparent) == _VERSION_00 and traceparent[_FLAGS_END] in "02468ace"


def new_trace_id() -> int:
    """A random one, never 0."""
    return getrandbits(128) or 1


def new_span_id() -> int:
    """A random one, never 0."""
    return getrandbits(64) or 1
