"""A webhook in this process: it answers as a test says, and keeps what it received."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h11


@dataclass
class Received:
    """A request that has arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """What a webhook does and has seen. `statuses` are used up one by one; then it answers 204."""

    port: int = 0
    statuses: list[int] = field(default_factory=list)
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    received: list[Received] = field(default_factory=list)
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        self.connections += 1
        connection = h11.Connection(h11.SERVER)
        request, body = None, b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                data = await reader.read(65_536)
                if not data and request is None:
                    break
                connection.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                break
        if request is not None:
            headers = {name.decode(): value.decode() for name, value in request.headers}
            self.received.append(Received(request.method.decode(), request.target.decode(), headers, body))
            status = self.statuses.pop(0) if self.statuses else 204
            answer = h11.Response(status_code=status, headers=[*self.headers, ("connection", "close")])
            for event in (answer, h11.Data(self.body), h11.EndOfMessage()):
                writer.write(connection.send(event) or b"")
        writer.close()


@asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None, statuses: Sequence[int] = ()) -> AsyncIterator[Receiver]:
    """Run a receiver on a free port of this machine."""
    receiver = Receiver(statuses=list(statuses))
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    async with server:
        yield receiver
