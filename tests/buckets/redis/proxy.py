"""A TCP proxy between a store and its server, which can lose the server's replies."""

import asyncio
import ssl
from types import TracebackType
from typing import Self


class Proxy:
    """Forwards bytes between its own port and `target_port`, which a test may change for the connections to come.

    With `tls`, its own port is a TLS port. Belongs to the running loop.
    """

    def __init__(self, target_port: int, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.target_port = target_port
        self._lose = False
        self._server: asyncio.Server | None = None
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """The URL of the server through the proxy."""
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def lose_next_reply(self) -> None:
        """Close the connection in place of the next reply."""
        self._lose = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        back, forth = await asyncio.open_connection("127.0.0.1", self.target_port)
        passing = asyncio.ensure_future(_pass(reader, forth))
        try:
            while data := await back.read(65_536):
                if self._lose:
                    self._lose = False
                    break
                writer.write(data)
        finally:
            passing.cancel()
            await asyncio.gather(passing, return_exceptions=True)
            for stream in (forth, writer):
                stream.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()
