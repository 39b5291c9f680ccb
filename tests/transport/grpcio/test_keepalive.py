"""Peers that vanish without closing their connections."""

import asyncio
from contextlib import suppress
from typing import Self

import grpc

from ratelimit_service.settings import Settings
from ratelimit_service.transport.grpcio.server import _options

HURRY = 60
"""The service's own times are divided by this, since a test has no minute."""

_TIMES = {"grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms"}


class Network:
    """Forwards one connection to PORT until it is cut: then nothing passes any more, and nothing is closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.is_cut = False
        self.closed = asyncio.Event()
        """Set once the server has closed its end."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.target = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._port)
        forwarding = asyncio.create_task(self._forward(reader, server_writer))
        await self._forward(server_reader, writer)
        self.closed.set()
        forwarding.cancel()
        for each in (writer, server_writer):
            each.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                if not self.is_cut:
                    writer.write(data)


async def test_a_connection_over_which_nothing_comes_back_is_closed() -> None:
    """Within the time after which it is pinged, and that for which the answer is awaited: 80 s, here a 60th."""
    options = [(name, value // HURRY if name in _TIMES else value) for name, value in _options(Settings())]
    server = grpc.aio.server(options=options)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with Network(port) as network, grpc.aio.insecure_channel(network.target) as channel:
        await channel.channel_ready()
        network.is_cut = True
        async with asyncio.timeout(80 / HURRY + 3):
            await network.closed.wait()
    await server.stop(0)
