"""Requests that no gRPC library makes: HTTP/2 by hand."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived

from transport.conformance.call import CHECK

HEADERS = {
    ":method": "POST",
    ":scheme": "http",
    ":authority": "test",
    ":path": CHECK,
    "te": "trailers",
    "content-type": "application/grpc",
}
CONFIGURATION = H2Configuration(
    header_encoding="utf-8",
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
    validate_inbound_headers=False,
)
SECONDS = 5.0


@dataclass
class Answer:
    """What came back on one stream. Headers and trailers together: gRPC does not separate them on errors."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    reset: bool = False

    @property
    def code(self) -> int:
        """The gRPC status, -1 if there is none."""
        return int(self.headers.get("grpc-status", "-1"))

    @property
    def http(self) -> int:
        """The HTTP status."""
        return int(self.headers[":status"])


def prefixed(message: bytes, flag: int = 0) -> bytes:
    """MESSAGE as it goes over the wire."""
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


def send(address: str, chunks: Sequence[bytes] = (), *, close: bool = True, **changes: str | None) -> Answer:
    """Send one request, and return what is answered. CHANGES are to HEADERS (`_` for `-`); None leaves one out."""
    headers = HEADERS | {
        (f":{name}" if f":{name}" in HEADERS else name.replace("_", "-")): v for name, v in changes.items()
    }
    connection = H2Connection(CONFIGURATION)
    connection.initiate_connection()
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as wire:
        pairs = [(name, value) for name, value in headers.items() if value is not None]
        connection.send_headers(1, pairs, end_stream=close and not chunks)
        for index, chunk in enumerate(chunks):
            connection.send_data(1, chunk, end_stream=close and index == len(chunks) - 1)
        wire.sendall(connection.data_to_send())
        return read_answer(wire, connection, 1)


def read_answer(wire: socket.socket, connection: H2Connection, stream: int) -> Answer:
    """Read until STREAM has ended, and return what was answered on it."""
    answer = Answer()
    while data := wire.recv(65_536):
        for event in connection.receive_data(data):
            if getattr(event, "stream_id", stream) != stream:
                continue
            if isinstance(event, ResponseReceived | TrailersReceived):
                answer.headers |= dict(event.headers)
            elif isinstance(event, DataReceived):
                answer.body += event.data
            elif isinstance(event, StreamReset | ConnectionTerminated):
                answer.reset = True
                return answer
            elif isinstance(event, StreamEnded):
                return answer
        wire.sendall(connection.data_to_send())
    return answer
