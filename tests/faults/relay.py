"""A relay on loopback, with an event loop and a thread of its own, so that tests with and without a loop can use it."""

import asyncio
import ssl
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")


class Relay:
    """Accepts connections on a port of its own while its block lasts; what `serve` does with each, others define."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        """With TLS, its port is a TLS port."""
        self._tls = tls
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self.do(asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def now(self) -> float:
        """The time of its loop, in seconds."""
        return self._loop.time()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Have its loop do WORK, from another thread, and return what that returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, until it is cancelled at the latest."""
        raise NotImplementedError

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self.serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.close())  # also of one that is cancelled before it begins

    async def _stop(self) -> None:
        self._server.close()
        await asyncio.sleep(0.01)  # what was accepted a moment ago gets its task
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # and is closed
