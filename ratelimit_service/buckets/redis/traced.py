"""Spans of script runs that have charges of calls that are traced.

A run serves many calls, of many traces: it is in a trace of its own. Links lead from it to its calls, and back.
"""

import asyncio
from collections.abc import Sequence
from time import monotonic

from ratelimit_service.buckets.redis.batcher import Batcher, InFlightBatch, QueuedCall, Route
from ratelimit_service.buckets.redis.observers import Observers
from ratelimit_service.buckets.redis.script import Encoder
from ratelimit_service.decision.charge import Charge, ChargeResult
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.tracing.call import SampledCall, current
from ratelimit_service.tracing.context import new_span_id, new_trace_id
from ratelimit_service.tracing.span import Kind, Span, SpanRef, Spans, Value, ended


class TracedBatcher(Batcher):
    """A batcher that has its runs recorded in SPANS, those in which a traced call has a charge."""

    def __init__(  # noqa: PLR0913  those of a batcher, and one
        self, route: Route, encoder: Encoder, tag: bytes, timeout: float, observers: Observers, *, spans: Spans
    ) -> None:
        super().__init__(route, encoder, tag, timeout, observers)
        self._spans = spans
        self._traced: dict[asyncio.Future[list[ChargeResult]], SampledCall] = {}  # calls in the queue
        self._sent: list[SampledCall] = []  # those in the batch that is in flight
        self._ref = SpanRef(0, 0)  # of that batch
        self._queued = 0.0  # how long its first call has waited
        self._error = ""

    def submit(self, charges: Sequence[Charge], deadline: float | None = None) -> asyncio.Future[list[ChargeResult]]:
        """Queue one call's CHARGES, as a batcher does."""
        future = super().submit(charges, deadline)
        call = current()
        if call is not None and call.traced and call.open:
            self._traced[future] = call
            future.add_done_callback(self._forget)
        return future

    def _forget(self, future: asyncio.Future[list[ChargeResult]]) -> None:
        """Forget a call that is over, if it was never sent."""
        self._traced.pop(future, None)

    def _take_from_queue(self) -> list[QueuedCall]:
        calls = super()._take_from_queue()
        self._sent = []
        if self._traced and calls:
            self._begin(calls)
        return calls

    def _begin(self, calls: Sequence[QueuedCall]) -> None:
        now = monotonic()
        self._ref, self._error = SpanRef(new_trace_id(), new_span_id()), ""
        self._queued = now - calls[0].submitted_at
        for queued in calls:
            call = self._traced.pop(queued.future, None)
            if call is not None:
                call.batches.append(self._ref)
                call.queued += now - queued.submitted_at
                self._sent.append(call)

    def _fail(
        self, batch: InFlightBatch, error: StoreUnavailable, cause: object = None, *, conclusive: bool = True
    ) -> None:
        self._error = str(error)
        super()._fail(batch, error, cause, conclusive=conclusive)

    def _finish(self, batch: InFlightBatch) -> None:
        if self._sent:
            self._end(batch)
        super()._finish(batch)

    def _end(self, batch: InFlightBatch) -> None:
        seconds = monotonic() - batch.started_at
        attributes: dict[str, Value] = {
            "db.system.name": "redis",
            "db.operation.name": "EVALSHA",
            "ratelimit.charges": sum(len(call.charges) for call in batch.calls),
            "ratelimit.queue_seconds": self._queued,
        }
        if batch.connection is not None:
            address = batch.connection.address
            attributes["server.address"] = address.path or address.host
            if not address.path:
                attributes["server.port"] = address.port
        for call in self._sent:
            call.stored += seconds
        start_ns, end_ns = ended(seconds)
        self._spans.add(
            Span(
                "charge",
                Kind.CLIENT,
                self._ref,
                parent_id=0,
                remote=False,
                state="",
                start_ns=start_ns,
                end_ns=end_ns,
                attributes=attributes,
                links=[call.ref for call in self._sent],
                error=self._error,
            )
        )
        self._sent = []


def open_batcher(route: Route, encoder: Encoder, tag: bytes, timeout: float, observers: Observers) -> Batcher:
    """The batcher for ROUTE: one that has its runs recorded, if OBSERVERS take spans."""
    if observers.spans is None:
        return Batcher(route, encoder, tag, timeout, observers)
    return TracedBatcher(route, encoder, tag, timeout, observers, spans=observers.spans)
