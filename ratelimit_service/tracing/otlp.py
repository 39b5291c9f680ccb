"""Spans as OTLP has them, and OpenTelemetry's exporter. Imported only where spans are exported.

The exporter sends, tries again, and reads the library's variables; what it sends is made here. Its own encoder takes
40 us of CPU for a span with a dozen attributes, and this 10: nearly all attributes have few values, which are encoded
once.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Final, cast

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, SpanFlags, Status
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Encoded
from opentelemetry.sdk import resources
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from ratelimit_service.process_name import process_name
from ratelimit_service.tracing.span import Kind, Span, Value

LIBRARY_LOG: Final = "opentelemetry.exporter.otlp.proto.grpc.exporter"
"""The logger to which the exporter writes of every attempt that fails."""

_KINDS: Final = {
    Kind.SERVER: Encoded.SPAN_KIND_SERVER,
    Kind.CLIENT: Encoded.SPAN_KIND_CLIENT,
    Kind.INTERNAL: Encoded.SPAN_KIND_INTERNAL,
}
_SAMPLED: Final = 1
_LOCAL: Final = _SAMPLED | SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE: Final = _LOCAL | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_MAX_CACHED: Final = 4_096


class _Exporter(OTLPSpanExporter):
    """The library's exporter, for our spans."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint=endpoint)
        self._described = _describe_process()

    def send(self, spans: Sequence[Span]) -> bool:
        """Send spans, again and again for as long as the library's timeout. Returns whether they have arrived."""
        return self.export(cast("Sequence[ReadableSpan]", spans)) is SpanExportResult.SUCCESS

    def _translate_data(self, data: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
        request = ExportTraceServiceRequest(resource_spans=[self._described])
        encoded = request.resource_spans[0].scope_spans[0].spans
        for span in cast("Sequence[Span]", data):
            _encode(span, encoded.add())
        return request


def open_exporter(endpoint: str) -> tuple[Callable[[Sequence[Span]], bool], Callable[[], None]]:
    """What sends spans to the collector at ENDPOINT, and returns whether they have arrived; and what ends it for good.

    The variables of the library hold beside that: `OTEL_EXPORTER_OTLP_HEADERS`, `_CERTIFICATE`, `_TIMEOUT`,
    `_COMPRESSION`, and `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` for what is sent with all spans.
    """
    exporter = _Exporter(endpoint)
    return exporter.send, exporter.shutdown


def _describe_process() -> ResourceSpans:
    """What all spans of this process have in common, without any."""
    ours = version("ratelimit-service")
    found = dict(resources.Resource.create({"service.version": ours, "ratelimit.process": process_name()}).attributes)
    if str(found.get("service.name", "")).startswith("unknown_service"):
        found["service.name"] = "ratelimit-service"
    attributes = [_attribute(key, value) for key, value in found.items() if isinstance(value, str | int | float | bool)]
    scope = InstrumentationScope(name="ratelimit-service", version=ours)
    return ResourceSpans(resource=Resource(attributes=attributes), scope_spans=[ScopeSpans(scope=scope)])


def _encode(span: Span, encoded: Encoded) -> None:
    trace_id = span.ref.trace_id.to_bytes(16, "big")
    encoded.trace_id = trace_id
    encoded.span_id = span.ref.span_id.to_bytes(8, "big")
    if span.parent_id:
        encoded.parent_span_id = span.parent_id.to_bytes(8, "big")
    encoded.flags = _REMOTE if span.remote and span.parent_id else _LOCAL
    encoded.trace_state = span.state
    encoded.name = span.name
    encoded.kind = _KINDS[span.kind]
    encoded.start_time_unix_nano = span.start_ns
    encoded.end_time_unix_nano = span.end_ns
    encoded.attributes.extend(
        [
            _new_attribute(key, value) if isinstance(value, float) else _attribute(key, value)
            for key, value in span.attributes.items()
        ]
    )
    for ref in span.links:
        encoded.links.add(
            trace_id=ref.trace_id.to_bytes(16, "big"), span_id=ref.span_id.to_bytes(8, "big"), flags=_LOCAL
        )
    if span.error:
        encoded.status.code = Status.STATUS_CODE_ERROR
        encoded.status.message = span.error


def _new_attribute(key: str, value: Value) -> KeyValue:
    if isinstance(value, bool):
        return KeyValue(key=key, value=AnyValue(bool_value=value))
    if isinstance(value, int):
        return KeyValue(key=key, value=AnyValue(int_value=value))
    if isinstance(value, float):
        return KeyValue(key=key, value=AnyValue(double_value=value))
    return KeyValue(key=key, value=AnyValue(string_value=value))


_attribute = lru_cache(_MAX_CACHED, typed=True)(_new_attribute)
