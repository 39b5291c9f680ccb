"""Bounds the streams of live figures: each is a connection, and reads the stores every second or two."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ratelimit_service.errors import Unavailable

MAX_STREAMS: Final = 64
"""Streams of one server: half of the connections of its port, so that probes and pages always find one."""

MAX_STREAMS_OF_TOKEN: Final = 32
"""Streams of all sessions of one token, which may open as many sessions as it likes."""

MAX_STREAMS_HERE: Final = 12
"""Streams of one session: tabs that are in front at one time."""


class Streams:
    """Counts the streams that are open."""

    def __init__(self) -> None:
        self._sessions: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()

    @contextmanager
    def count(self, session_value: str, token_id: str) -> Iterator[None]:
        """Count a stream as open within the block."""
        self._sessions[session_value] += 1
        self._tokens[token_id] += 1
        try:
            yield
        finally:
            for counter, name in ((self._sessions, session_value), (self._tokens, token_id)):
                counter[name] -= 1
                if not counter[name]:
                    del counter[name]

    def is_full(self, session_value: str, token_id: str) -> bool:
        """Whether the session, its token, or the server has as many streams as it may."""
        return (
            self._sessions[session_value] >= MAX_STREAMS_HERE
            or self._tokens[token_id] >= MAX_STREAMS_OF_TOKEN
            or self._tokens.total() >= MAX_STREAMS
        )

    def check(self, session_value: str, token_id: str) -> None:
        """Raise Unavailable if there are too many."""
        if self.is_full(session_value, token_id):
            raise Unavailable("too many pages with live figures are open; close one", reason="TOO_MANY_STREAMS")
