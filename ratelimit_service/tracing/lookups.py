"""Spans of policies that were not in memory."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from time import monotonic
from typing import TypeAlias

from ratelimit_service.tracing.call import SampledCall, traced
from ratelimit_service.tracing.context import new_span_id
from ratelimit_service.tracing.span import Kind, Span, SpanRef, Spans, ended

Waits: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]
"""Makes the block in which a call waits until keys are read."""


def traced_lookups(waits: Waits, spans: Spans) -> Waits:
    """WAITS, with a span for the block of a call that is traced. The read itself may serve others, too."""

    def block() -> AbstractAsyncContextManager[None]:
        call = traced()
        return waits() if call is None else _traced(waits(), call, spans)

    return block


@asynccontextmanager
async def _traced(block: AbstractAsyncContextManager[None], call: SampledCall, spans: Spans) -> AsyncIterator[None]:
    began, error = monotonic(), ""
    try:
        async with block:
            yield
    except BaseException as raised:
        error = type(raised).__name__
        raise
    finally:
        start_ns, end_ns = ended(monotonic() - began)
        ref = SpanRef(call.ref.trace_id, new_span_id())
        spans.add(
            Span(
                "policy lookup",
                Kind.CLIENT,
                ref,
                call.ref.span_id,
                remote=False,
                state=call.state,
                start_ns=start_ns,
                end_ns=end_ns,
                attributes={"db.system.name": "postgresql"},
                error=error,
            )
        )
