"""Sends a message to the webhook. HTTP/1.1 by h11, on a connection of our own.

The name is resolved once for each message, every address is checked, and the connection goes to an address that was
checked: a name that resolves to another address a moment later (DNS rebinding) changes nothing. Nothing follows a
redirect, and no proxy is asked.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final

import h11

from ratelimit_service.alerts.ports import Response
from ratelimit_service.webhook.address import Address, Endpoint, Resolve, is_public, resolve

TIMEOUT_SECONDS: Final = 10.0
"""For one message, from resolving the name to the end of the response."""

MAX_RESPONSE: Final = 64 * 1024
"""Bytes of a response that are read. What comes after is not."""

_CHUNK: Final = 16 * 1024


class WebhookSender:
    """As `alerts.ports.Sender` describes it."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        allow_private: bool = False,
        tls: ssl.SSLContext | None = None,
        resolver: Resolve = resolve,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        """TLS verifies the certificate against the URL's name; by default with the system's certificate authorities."""
        self._endpoint = endpoint
        self._allow_private = allow_private
        self._tls = tls or ssl.create_default_context()
        self._resolver = resolver
        self._timeout = timeout

    async def send(self, headers: Mapping[str, str], body: bytes) -> Response:
        """POST a message. Any status from 200 to 299 means that it was accepted."""
        try:
            async with asyncio.timeout(self._timeout):
                status = await self._post(headers, body)
        except (OSError, ValueError, h11.ProtocolError, _RefusedError) as error:
            return Response(0, self._why(error))
        if 200 <= status < 300:  # noqa: PLR2004  HTTP's class of success
            return Response(status)
        return Response(status, f"responded with status {status}")

    def _why(self, error: Exception) -> str:
        """Why a message could not be sent, without the URL."""
        match error:
            case TimeoutError():
                return f"no response within {self._timeout:g} s"
            case ssl.SSLError():
                return f"TLS failed: {error.reason or type(error).__name__}"
            case OSError():
                return f"cannot be reached: {error.strerror or type(error).__name__}"
            case h11.RemoteProtocolError():
                return "did not respond in HTTP/1.1"
            case ValueError() | h11.LocalProtocolError():  # of the URL: a name that no resolver takes, for example
                return "cannot be sent to this URL; correct RATELIMIT_ALERT_WEBHOOK_URL"
            case _:
                return str(error)

    async def _post(self, headers: Mapping[str, str], body: bytes) -> int:
        endpoint = self._endpoint
        address = await self._address()
        reader, writer = await asyncio.open_connection(
            str(address),
            endpoint.port,
            ssl=self._tls if endpoint.secure else None,
            server_hostname=endpoint.host if endpoint.secure else None,
        )
        try:
            connection = h11.Connection(h11.CLIENT)
            sent = [
                ("Host", endpoint.authority),
                ("User-Agent", "ratelimit-service"),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
                *headers.items(),
            ]
            request = h11.Request(method="POST", target=endpoint.target, headers=sent)
            for event in (request, h11.Data(body), h11.EndOfMessage()):
                writer.write(connection.send(event) or b"")
            await writer.drain()
            return await _status(connection, reader)
        finally:
            writer.transport.abort()

    async def _address(self) -> Address:
        """The address to connect to. All those of the name must be allowed: some would be a mistake, or an attack."""
        addresses = await self._resolver(self._endpoint.host, self._endpoint.port)
        if not addresses:
            raise _RefusedError("its name has no address")
        if not self._allow_private and not all(map(is_public, addresses)):
            raise _RefusedError(
                "its name resolves to an address that is not public; RATELIMIT_ALERT_WEBHOOK_ALLOW_PRIVATE allows those"
            )
        return addresses[0]


class _RefusedError(Exception):
    """Nothing was sent. The message states why."""


async def _status(connection: h11.Connection, reader: asyncio.StreamReader) -> int:
    """Read a response to its end, or as far as is allowed, and return its status."""
    status = received = 0
    while received < MAX_RESPONSE:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(_CHUNK)
            received += len(data)
            connection.receive_data(data)
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            break
    if not status:
        raise _RefusedError("sent no status in its response")
    return status
