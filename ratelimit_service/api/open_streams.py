"""Streams of checks that are open: how many at a time, and which of them ends when there are more."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from ratelimit_service.errors import Unavailable

MAX_OPEN: Final = 2_000
"""Streams that one process keeps open at a time, some 50 KiB each. A gateway needs one, or a few."""


class OpenStreams:
    """The open streams of one process, the one first that has been quiet the longest: it ends when there are too many.

    So whoever opens thousands and sends nothing closes his own, and none that is in use.
    """

    def __init__(self, most: int = MAX_OPEN) -> None:
        self._most = most
        self._open: OrderedDict[asyncio.Future[None], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def one(self, ended: "asyncio.Future[None]") -> Iterator[Callable[[], None]]:
        """Count one stream until the block ends. Yields what to call whenever checks arrive on it.

        ENDED is failed with Unavailable when the stream has to end.
        """
        if len(self._open) >= self._most:
            quiet, _ = self._open.popitem(last=False)
            if not quiet.done():
                quiet.set_exception(_too_many())
                quiet.exception()  # marks it as retrieved: the stream may be ending already
        self._open[ended] = None
        try:
            yield partial(self._used, ended)
        finally:
            self._open.pop(ended, None)

    def _used(self, stream: "asyncio.Future[None]") -> None:
        if stream in self._open:
            self._open.move_to_end(stream)


def _too_many() -> Unavailable:
    return Unavailable(
        "too many streams are open, and this one was quiet the longest; open it again when it is needed",
        reason="TOO_MANY_AT_ONCE",
    )
