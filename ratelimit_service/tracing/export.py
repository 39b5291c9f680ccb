"""Sends spans to an OpenTelemetry collector, in a thread of its own."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from threading import Event, Thread
from time import monotonic
from typing import Final, TypeAlias

import structlog

from ratelimit_service.errors import StartupError
from ratelimit_service.tracing.span import Span

MAX_WAITING: Final = 8_192
"""Spans that wait to be sent, some 10 MiB. Further ones are dropped, and counted."""

MAX_SENT: Final = 256
"""Spans that are encoded and sent at a time. The thread has the interpreter for some 3 ms meanwhile."""

PERIOD: Final = 1.0
"""Seconds that a span waits at most until it is sent, if there are fewer."""

REPORT_SECONDS: Final = 60.0
"""Between two lines of the log about spans that could not be sent."""

CLOSE_SECONDS: Final = 1.0
"""For which the end of the process waits for what is not sent yet."""

_log = structlog.stdlib.get_logger(__name__)

Send: TypeAlias = Callable[[Sequence[Span]], bool]
"""Sends spans, and waits for that. Returns whether they have arrived."""


class SpanExport:
    """Takes spans, and sends them to the collector at ENDPOINT (`http://host:4317`, or `https://`) by OTLP over gRPC.

    Nothing waits for the collector: what it does not take is dropped, and counted. Raises StartupError where the
    library for it is not installed. Nothing is imported, and nothing sent, before `start`.
    """

    def __init__(self, endpoint: str) -> None:
        if not _is_installed():
            raise StartupError(
                "RATELIMIT_OTLP_ENDPOINT is set, and the library that sends spans is not installed; "
                "pip install 'ratelimit-service[otel]', or leave the setting empty"
            )
        self._endpoint = endpoint
        self._waiting: deque[Span] = deque()
        self._wake = Event()
        self._closing = False
        self._thread: Thread | None = None
        self._interrupt: Callable[[], None] = lambda: None
        self._cause = _LastWarning()
        self._unreported = 0
        self._reported_at = -REPORT_SECONDS
        self.exported = 0
        """Spans so far that the collector has taken."""
        self.failed = 0
        """Spans so far that could not be sent to it."""
        self.dropped = 0
        """Spans so far for which there was no room."""

    def add(self, span: Span) -> None:
        """Have a span sent. Never waits."""
        waiting = self._waiting
        if len(waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        waiting.append(span)
        if len(waiting) >= MAX_SENT and not self._wake.is_set():
            self._wake.set()

    def start(self) -> None:
        """Import the library, and begin to send. Call it once, in a process that serves calls."""
        from ratelimit_service.tracing.otlp import LIBRARY_LOG, open_exporter  # noqa: PLC0415  0.2 s, 15 MiB

        logging.getLogger(LIBRARY_LOG).addFilter(self._cause)
        send, self._interrupt = open_exporter(self._endpoint)
        self._thread = Thread(target=self._run, args=(send,), name="spans", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Send what waits, for CLOSE_SECONDS at most, and end."""
        if self._thread is None:
            return
        self._closing = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join, CLOSE_SECONDS)
        await asyncio.to_thread(self._interrupt)

    def _run(self, send: Send) -> None:
        while not self._closing:
            self._wake.wait(PERIOD)
            self._wake.clear()
            while self._waiting:
                self._send(send)

    def _send(self, send: Send) -> None:
        spans = [self._waiting.popleft() for _ in range(min(MAX_SENT, len(self._waiting)))]
        try:
            arrived = send(spans)
        except Exception as error:  # noqa: BLE001 whatever the library raises: the thread goes on
            arrived, self._cause.text = False, f"{type(error).__name__}: {error}"
        if arrived:
            self.exported += len(spans)
            if self._unreported:
                _log.info("spans are exported again", endpoint=self._endpoint)
                self._unreported, self._reported_at = 0, -REPORT_SECONDS
            return
        self.failed += len(spans)
        self._unreported += len(spans)
        if monotonic() - self._reported_at >= REPORT_SECONDS:
            self._reported_at = monotonic()
            _log.warning(
                "spans cannot be exported", endpoint=self._endpoint, spans=self._unreported, error=self._cause.text
            )


def _is_installed() -> bool:
    """Whether the library is there. It is not imported."""
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.grpc") is not None
    except ModuleNotFoundError:  # nor is what it is a part of
        return False


class _LastWarning(logging.Filter):
    """Keeps what the library writes out of the log, where it writes for every attempt, and remembers the last line."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write this line: never."""
        self.text = record.getMessage()
        return False
