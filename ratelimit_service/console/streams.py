"""How many streams of live figures are open: a bounded number, of each session and in all."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MAX_STREAMS: Final = 200
"""Streams of a process at the same time."""

MAX_STREAMS_OF_SESSION: Final = 12
"""Streams of one session at the same time: as many visible windows."""


class Streams:
    """Counts the open streams, of each session and in all."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def is_full(self, session: str) -> bool:
        """Whether there is no room for one more stream of this session."""
        return self._open.total() >= MAX_STREAMS or self._open[session] >= MAX_STREAMS_OF_SESSION

    @contextmanager
    def held(self, session: str) -> Iterator[None]:
        """Count a stream for the length of the block."""
        self._open[session] += 1
        try:
            yield
        finally:
            self._open[session] -= 1
            self._open += Counter()  # forgets those at zero
