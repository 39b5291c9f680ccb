"""A proxy in front of Postgres that passes everything on but notifications: their channel is cut."""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self, TypeVar

T = TypeVar("T")

_PIECE: Final = 2**16
_NOTIFICATION: Final = b"A"
_HEAD: Final = 5


class SilentPostgres:
    """Forwards from a port of its own on loopback. Callers must connect without TLS (`sslmode=disable`).

    It has an event loop and a thread of its own.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self.dropped = 0
        """Notifications so far."""
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_postgres, to_postgres = await asyncio.open_connection("127.0.0.1", self._target_port)
        works = {
            asyncio.ensure_future(self._pass_on(reader, to_postgres)),
            asyncio.ensure_future(self._back(from_postgres, writer)),
        }
        try:
            await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for work in works:
                work.cancel()
            writer.close()
            to_postgres.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(_PIECE):
                writer.write(data)

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on message by message: a letter, four bytes with the length of the rest, and the rest."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(_HEAD)
                rest = await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
                if head[:1] == _NOTIFICATION:
                    self.dropped += 1
                else:
                    writer.write(head + rest)

    async def _stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
