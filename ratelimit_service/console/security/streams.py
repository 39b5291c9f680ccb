"""Bounds the streams of live figures: each is a connection, and reads the stores once a second."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ratelimit_service.errors import Unavailable

MAX_STREAMS: Final = 64
"""Streams of one server: half of the connections that its port accepts, so that those who open pages with live figures,
who may sign in as often as they like, leave room for probes and for pages."""

MAX_STREAMS_HERE: Final = 12
"""Streams of one session: tabs that are in front at one time."""


class Streams:
    """Counts the streams that are open."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    @contextmanager
    def count(self, session_value: str) -> Iterator[None]:
        """Count a stream as open within the block."""
        self._open[session_value] += 1
        try:
            yield
        finally:
            self._open[session_value] -= 1
            if not self._open[session_value]:
                del self._open[session_value]

    def check(self, session_value: str) -> None:
        """Raise Unavailable when the session, or the server, has as many streams as it may."""
        if self._open[session_value] >= MAX_STREAMS_HERE or self._open.total() >= MAX_STREAMS:
            raise Unavailable("too many pages with live figures are open; close one", reason="TOO_MANY_STREAMS")
