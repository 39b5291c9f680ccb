"""Responses: headers, messages and trailers."""

import asyncio
from base64 import b64encode
from typing import Final
from urllib.parse import quote

from ratelimit_service.api.status import NO_RETRY_KEY, clip, to_metadata, to_service_error
from ratelimit_service.errors import Code, Overloaded, ServiceError
from ratelimit_service.transport.envoy.framing import CallerGone, Event, NotGrpc, ProtocolError, Send, frame

_CONTENT_TYPE: Final = (b"content-type", b"application/grpc")
_PLAIN_TEXT: Final = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
"""Characters of a `grpc-message` that are sent as they are, like letters and digits; others are percent-encoded."""

NO_RETRY: Final = (NO_RETRY_KEY.encode(), b"-1")
"""Tells clients with a retry policy not to retry: gRPC's A6, "Pushback"."""

# The same objects for every call: Envoy's embedded Python only reads them.
_START: Final[Event] = {"type": "http.response.start", "status": 200, "headers": [_CONTENT_TYPE], "trailers": True}
_OK: Final[Event] = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
_NO_BODY: Final[Event] = {"type": "http.response.body", "body": b"", "more_body": False}


async def send_response(send: Send, framed: bytes) -> Code:
    """Send a response of one message. Returns the code that the caller receives, CANCELLED if it has gone."""
    try:
        await send(_START)
        await send({"type": "http.response.body", "body": framed, "more_body": False})
        await send(_OK)
    except OSError:
        return Code.CANCELLED
    return Code.OK


class Refusal:
    """The response to every call of a method that is refused under overload, made once. `code` is what is counted."""

    def __init__(self, error: ServiceError, message: bytes | None, method: str) -> None:
        """MESSAGE is what METHOD responds with in place of ERROR, None if it is the error."""
        if message is None:
            self.code, trailers = _error_trailers(error, method)
            start: Event = {"type": "http.response.start", "status": 200, "headers": [_CONTENT_TYPE, *trailers]}
            self._events: tuple[Event, ...] = (start, _NO_BODY)
        else:
            self.code = Code.OK
            body: Event = {"type": "http.response.body", "body": frame(message), "more_body": False}
            self._events = (_START, body, _OK)

    async def send(self, send: Send) -> None:
        """Send it."""
        await _send_end(send, *self._events)


async def send_error(send: Send, error: Exception, method: str) -> Code:
    """Send an error as the whole response. Returns the code that the caller receives.

    The trailers are sent as headers: gRPC's Trailers-Only, for an error without a message before it.
    """
    if isinstance(error, CallerGone):
        return Code.CANCELLED
    if isinstance(error, NotGrpc):
        await _send_end(send, {"type": "http.response.start", "status": error.status, "headers": []}, _NO_BODY)
        return Code.INTERNAL
    code, trailers = _error_trailers(error, method)
    start = {"type": "http.response.start", "status": 200, "headers": [_CONTENT_TYPE, *trailers]}
    return code if await _send_end(send, start, _NO_BODY) else Code.CANCELLED


class ResponseStream:
    """The response to a stream: any number of messages, then its end."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False

    async def write(self, framed: bytes, ended: "asyncio.Future[None]") -> None:
        """Send messages. Waits while the caller does not read.

        Raises CallerGone, and what ENDED fails with meanwhile: what was to be sent may still be, before the end.
        """
        try:
            if not self._started:
                self._started = True
                await self._send(_START)
            sent = asyncio.ensure_future(self._send({"type": "http.response.body", "body": framed, "more_body": True}))
            await asyncio.wait((sent, ended), return_when=asyncio.FIRST_COMPLETED)
            if not sent.done():
                sent.add_done_callback(_ignore)  # what Envoy's application was given is not cancelled
                ended.result()
            sent.result()
        except OSError:
            raise CallerGone from None

    async def end(self) -> Code:
        """End it with OK. Returns the code that the caller receives."""
        if self._started:
            return Code.OK if await _send_end(self._send, _NO_BODY, _OK) else Code.CANCELLED
        start = {"type": "http.response.start", "status": 200, "headers": [_CONTENT_TYPE, *_OK["headers"]]}
        return Code.OK if await _send_end(self._send, start, _NO_BODY) else Code.CANCELLED

    async def fail(self, error: Exception, method: str) -> Code:
        """End it with an error. Returns the code that the caller receives."""
        if not self._started:
            return await send_error(self._send, error, method)
        if isinstance(error, CallerGone):
            return Code.CANCELLED
        code, trailers = _error_trailers(error, method)
        end = {"type": "http.response.trailers", "headers": trailers}
        return code if await _send_end(self._send, _NO_BODY, end) else Code.CANCELLED


def _ignore(sent: "asyncio.Future[None]") -> None:
    """Take note of an error, so that it is not reported as one that nobody noticed."""
    if not sent.cancelled():
        sent.exception()


async def _send_end(send: Send, *events: Event) -> bool:
    """Send the end of a response. Returns whether the caller was still connected."""
    try:
        for event in events:
            await send(event)
    except OSError:
        return False
    return True


def _error_trailers(error: Exception, method: str) -> tuple[Code, list[tuple[bytes, bytes]]]:
    """The code and the trailers of an error."""
    if isinstance(error, ProtocolError):
        return Code.INTERNAL, _status(Code.INTERNAL, str(error))
    reported: ServiceError = to_service_error(error, method)
    trailers = _status(reported.code, clip(reported.message))
    trailers += [(key.encode(), b64encode(value).rstrip(b"=")) for key, value in to_metadata(reported)]
    if isinstance(reported, Overloaded):
        trailers.append(NO_RETRY)
    if reported.code is Code.UNIMPLEMENTED:
        trailers.append((b"grpc-accept-encoding", b"identity"))
    return reported.code, trailers


def _status(code: Code, message: str) -> list[tuple[bytes, bytes]]:
    return [(b"grpc-status", b"%d" % code), (b"grpc-message", quote(message, safe=_PLAIN_TEXT).encode())]
