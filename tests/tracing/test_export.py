"""The queue of spans, and the thread that sends them."""

import sys
import threading
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from fixtures.otlp_receiver import attributes, receiving
from ratelimit_service.errors import StartupError
from ratelimit_service.tracing import export
from ratelimit_service.tracing.export import MAX_SENT, MAX_WAITING, SpanExport
from ratelimit_service.tracing.span import Kind, Span, SpanRef

SPAN = Span(
    "name",
    Kind.INTERNAL,
    SpanRef(1, 2),
    parent_id=3,
    remote=False,
    state="a=1",
    start_ns=10,
    end_ns=20,
    attributes={"text": "t", "number": 4},
    links=(SpanRef(5, 6),),
    error="bad",
)


@pytest.fixture
def spans() -> SpanExport:
    """An export that was not started."""
    return SpanExport("http://127.0.0.1:1")


def test_what_finds_no_room_is_dropped_and_counted(spans: SpanExport) -> None:
    """The queue is bounded, and to add to it never waits."""
    for _ in range(MAX_WAITING + 7):
        spans.add(SPAN)
    assert len(spans._waiting) == MAX_WAITING
    assert spans.dropped == 7


def test_failures_are_counted_and_logged_once_a_minute(spans: SpanExport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the library does, with its last words; and once when it succeeds again."""
    seconds = 1000.0
    monkeypatch.setattr(export, "monotonic", lambda: seconds)
    sent: list[int] = []
    works = False

    def send(batch: Sequence[Span]) -> bool:
        sent.append(len(batch))
        if not works and len(sent) % 2:
            raise ConnectionError("refused")
        return works

    def run(number: int) -> None:
        for _ in range(number):
            spans.add(SPAN)
        while spans._waiting:
            spans._send(send)

    with capture_logs() as lines:
        run(3 * MAX_SENT)
        assert [line["event"] for line in lines] == ["spans cannot be exported"]
        assert lines[0]["error"] == "ConnectionError: refused"
        seconds += 60
        run(1)
        assert [line["spans"] for line in lines] == [MAX_SENT, 3 * MAX_SENT + 1]
        works = True
        run(2)
    assert [line["event"] for line in lines[2:]] == ["spans are exported again"]
    assert sent == [MAX_SENT] * 3 + [1, 2]
    assert (spans.failed, spans.exported, spans.dropped) == (3 * MAX_SENT + 1, 2, 0)


async def test_the_end_sends_what_waits() -> None:
    """A span is whole in what a receiver gets; the thread is over then."""
    with receiving() as receiver:
        spans = SpanExport(f"http://{receiver.address}")
        spans.start()
        spans.add(SPAN)
        await spans.close()
        (span,) = receiver.spans
    assert (span.trace_id, span.span_id, span.parent_span_id) == (bytes(15) + b"\1", bytes(7) + b"\2", bytes(7) + b"\3")
    assert (span.name, span.trace_state, span.kind) == ("name", "a=1", span.SPAN_KIND_INTERNAL)
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (10, 20)
    assert attributes(span) == {"text": "t", "number": 4}
    assert [(link.trace_id[-1], link.span_id[-1]) for link in span.links] == [(5, 6)]
    assert (span.status.code, span.status.message) == (span.status.STATUS_CODE_ERROR, "bad")
    found = receiver.requests[0].resource_spans[0].resource.attributes
    resource = {each.key: each.value.string_value for each in found}
    assert resource["service.name"] == "ratelimit-service"
    assert resource["ratelimit.process"] == "main"
    assert "spans" not in {thread.name for thread in threading.enumerate()}


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install, whether all of OpenTelemetry is missing, or only its exporter."""
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(StartupError, match=r"pip install 'ratelimit-service\[otel\]'"):
        SpanExport("http://127.0.0.1:4317")
