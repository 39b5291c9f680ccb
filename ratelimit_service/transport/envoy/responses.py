"""What goes back to the caller: headers, messages and trailers."""

from base64 import b64encode
from typing import Final
from urllib.parse import quote

from ratelimit_service.api.status import clip, to_metadata, to_service_error
from ratelimit_service.errors import Code, ServiceError
from ratelimit_service.transport.envoy.framing import CallerGone, Event, NotACall, NotGrpc, Send

_CONTENT_TYPE: Final = (b"content-type", b"application/grpc")
_PLAIN_TEXT: Final = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
"""What a `grpc-message` may hold as it is, beside letters and digits; all else is percent-encoded."""

# The same objects for every call: Envoy's embedded Python only reads them.
_START: Final[Event] = {"type": "http.response.start", "status": 200, "headers": [_CONTENT_TYPE], "trailers": True}
_OK: Final[Event] = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
_NO_BODY: Final[Event] = {"type": "http.response.body", "body": b"", "more_body": False}


async def answer(send: Send, framed: bytes) -> Code:
    """Answer with one message. Returns the code that the caller sees, CANCELLED if it has gone."""
    try:
        await send(_START)
        await send({"type": "http.response.body", "body": framed, "more_body": False})
        await send(_OK)
    except OSError:
        return Code.CANCELLED
    return Code.OK


async def refuse(send: Send, fault: Exception, method: str) -> Code:
    """Answer a call to which nothing was answered yet with what went wrong. Returns the code that the caller sees.

    The trailers come as headers, which is how gRPC tells an error that has no message before it.
    """
    if isinstance(fault, CallerGone):
        return Code.CANCELLED
    if isinstance(fault, NotACall):
        await _send_last(send, {"type": "http.response.start", "status": fault.status, "headers": []}, _NO_BODY)
        return Code.INTERNAL
    code, trailers = _error_status(fault, method)
    start = {"type": "http.response.start", "status": 200, "headers": [_CONTENT_TYPE, *trailers]}
    return code if await _send_last(send, start, _NO_BODY) else Code.CANCELLED


class AnswerStream:
    """Answers a stream: any number of messages, then its end."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False

    async def write(self, framed: bytes) -> None:
        """Send messages. Waits while the caller does not read. Raises Gone."""
        try:
            if not self._started:
                self._started = True
                await self._send(_START)
            await self._send({"type": "http.response.body", "body": framed, "more_body": True})
        except OSError:
            raise CallerGone from None

    async def end(self) -> Code:
        """End it well. Returns the code that the caller sees."""
        if self._started:
            return Code.OK if await _send_last(self._send, _NO_BODY, _OK) else Code.CANCELLED
        start = {"type": "http.response.start", "status": 200, "headers": [_CONTENT_TYPE, *_OK["headers"]]}
        return Code.OK if await _send_last(self._send, start, _NO_BODY) else Code.CANCELLED

    async def refuse(self, fault: Exception, method: str) -> Code:
        """End it with what went wrong. Returns the code that the caller sees."""
        if not self._started:
            return await refuse(self._send, fault, method)
        if isinstance(fault, CallerGone):
            return Code.CANCELLED
        code, trailers = _error_status(fault, method)
        last = {"type": "http.response.trailers", "headers": trailers}
        return code if await _send_last(self._send, _NO_BODY, last) else Code.CANCELLED


async def _send_last(send: Send, *events: Event) -> bool:
    """Send the end of an answer. Returns whether the caller was still there."""
    try:
        for event in events:
            await send(event)
    except OSError:
        return False
    return True


def _error_status(fault: Exception, method: str) -> tuple[Code, list[tuple[bytes, bytes]]]:
    """The code and the trailers that tell a fault."""
    if isinstance(fault, NotGrpc):
        return Code.INTERNAL, _status(Code.INTERNAL, str(fault))
    error: ServiceError = to_service_error(fault, method)
    trailers = _status(error.code, clip(error.message))
    trailers += [(key.encode(), b64encode(value).rstrip(b"=")) for key, value in to_metadata(error)]
    if error.code is Code.UNIMPLEMENTED:
        trailers.append((b"grpc-accept-encoding", b"identity"))
    return error.code, trailers


def _status(code: Code, message: str) -> list[tuple[bytes, bytes]]:
    return [(b"grpc-status", b"%d" % code), (b"grpc-message", quote(message, safe=_PLAIN_TEXT).encode())]
