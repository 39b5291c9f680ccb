"""A proxy in front of Postgres that can pass everything on but notifications: their channel is cut."""

import asyncio
from contextlib import suppress
from typing import Final

from faults.relay import Relay

_PIECE: Final = 2**16
_NOTIFICATION: Final = b"A"
_HEAD: Final = 5


class SilentPostgres(Relay):
    """Forwards from a port of its own on loopback. Callers must connect without TLS (`sslmode=disable`)."""

    def __init__(self, target_port: int) -> None:
        super().__init__()
        self._target_port = target_port
        self.silent = False
        """Whether notifications are dropped from now on."""
        self.dropped = 0
        """Notifications so far."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection, until either end ends it."""
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
                if self.silent and head[:1] == _NOTIFICATION:
                    self.dropped += 1
                else:
                    writer.write(head + rest)
