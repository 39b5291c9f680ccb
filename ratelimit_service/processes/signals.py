"""What a server is told by signals."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_STOP = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """SIGTERM and SIGINT end the server: the first one well, the second at once. SIGHUP is passed on."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.stop: asyncio.Future[None] = loop.create_future()
        """Done once the server is to end."""
        self.hurry: asyncio.Future[None] = loop.create_future()
        """Done once it is to end at once."""

    def _told(self) -> None:
        told = self.hurry if self.stop.done() else self.stop
        if not told.done():
            told.set_result(None)

    @contextmanager
    def heard(self, hang_up: Callable[[], None]) -> Iterator[None]:
        """Listen to signals; HANG_UP is called for each SIGHUP."""
        loop = asyncio.get_running_loop()
        for number in _STOP:
            loop.add_signal_handler(number, self._told)
        loop.add_signal_handler(signal.SIGHUP, hang_up)
        try:
            yield
        finally:
            for number in (*_STOP, signal.SIGHUP):
                loop.remove_signal_handler(number)
