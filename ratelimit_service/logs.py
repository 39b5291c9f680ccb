"""The log: one line per event, as text for people or as JSON for collectors, on standard error."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final, Literal, TextIO

import structlog

_SECRET: Final = re.compile(r"(rlk_[a-z0-9]+_[0-9A-Za-z]+|rlt_[0-9A-Za-z]+)_[0-9A-Za-z]+")
"""API keys and tokens: the public part, then the secret."""

_PASSWORD: Final = re.compile(r"(://[^/\s:@]*):[^/\s@]+@")
"""The password in a URL."""

Event = MutableMapping[str, Any]


def set_up_logging(
    level: Literal["debug", "info", "warning", "error"] = "info",
    log_format: Literal["text", "json"] = "text",
    stream: TextIO | None = None,
) -> None:
    """Send every log line of this process, the libraries' included, to STREAM (standard error by default).

    Call it once, before anything else in a process. No line contains the secret part of an API key or token, or the
    password of a URL: no code should log one, and this is the last safeguard.
    """
    stream = stream or sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(default=str)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=stream.isatty())
    )
    handler = logging.StreamHandler(stream)
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


def redact(text: str) -> str:
    """TEXT without the secrets that it may contain."""
    return _PASSWORD.sub(r"\1:***@", _SECRET.sub(r"\1_***", text))


def _redact(_logger: object, _method: str, line: Event | str | bytes) -> str:
    return redact(str(line))
