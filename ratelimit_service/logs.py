"""The log: one line per event, as text for people or as JSON for collectors, on standard error."""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, MutableMapping
from time import monotonic
from typing import Any, Final, Literal

import structlog

from ratelimit_service.log_writer import LogWriter
from ratelimit_service.tracing.call import traced

_SECRET: Final = re.compile(r"(rlk_[a-z0-9]+_[0-9A-Za-z]+|rlt_[0-9A-Za-z]+)_[0-9A-Za-z]+")
"""API keys and tokens: the public part, then the secret."""

_PASSWORD: Final = re.compile(r"(://[^/\s:@]*):[^/\s@]+@")
"""The password in a URL."""

_BOUNDED: Final = frozenset({"grpc", "uvicorn"})
"""The libraries that write lines because of what strangers send: calls by gRPC, requests by HTTP."""

_MAX_LINES: Final = 10
"""Lines a second of each of them."""

_MAX_TEXT: Final = 1_000
"""Characters of such a line."""

STANDARD_ERROR: Final = 2

Event = MutableMapping[str, Any]


def set_up_logging(
    level: Literal["debug", "info", "warning", "error"] = "info",
    log_format: Literal["text", "json"] = "text",
    descriptor: int = STANDARD_ERROR,
) -> None:
    """Send every log line of this process, the libraries' included, to DESCRIPTOR. Nothing waits for its reader.

    Call it once, before anything else in a process. No line contains the secret part of an API key or token, or the
    password of a URL: no code should log one, and this is the last safeguard.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        add_trace,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(default=str)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=os.isatty(descriptor))
    )
    handler = LogWriter(descriptor)
    handler.addFilter(BoundedLibrary())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer, _redact],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # It logs which database it uses at every check of the schema, and so at every start of a worker.
    logging.getLogger("alembic.runtime.migration").setLevel(logging.WARNING)
    # It logs each statement that is given up, and not where: whoever gives one up reports that.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def flush_log() -> None:
    """Wait until all lines so far are written, for a second at most: what is printed next then comes after them."""
    for handler in logging.getLogger().handlers:
        handler.flush()


class BoundedLibrary(logging.Filter):
    """Bounds what the libraries log that speak to strangers: how much, and of whose making.

    That of gRPC writes each header of a call that is not UTF-8, in full and with a traceback, whenever it is asked for
    headers. Those lines say nothing of this server, and may hold secrets. That of HTTP writes a line for each request
    that is none.
    """

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        super().__init__()
        self._now = now
        self._second = 0.0
        self._lines: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write this line."""
        library = record.name.partition(".")[0]
        if library not in _BOUNDED:
            return True
        text = record.getMessage()
        if text.startswith("Invalid encoding on"):
            return False
        if self._now() - self._second >= 1.0:
            self._second = self._now()
            self._lines.clear()
        self._lines[library] += 1
        record.msg, record.args = text[:_MAX_TEXT], ()
        return self._lines[library] <= _MAX_LINES


def add_trace(_logger: object, _method: str, event: Event) -> Event:
    """Add the ids of the span of the call that is served, if it is traced."""
    call = traced()
    if call is not None:
        event["trace_id"] = f"{call.ref.trace_id:032x}"
        event["span_id"] = f"{call.ref.span_id:016x}"
    return event


def redact(text: str) -> str:
    """TEXT without the secrets that it may contain."""
    return _PASSWORD.sub(r"\1:***@", _SECRET.sub(r"\1_***", text))


def _redact(_logger: object, _method: str, line: Event | str | bytes) -> str:
    return redact(str(line))
