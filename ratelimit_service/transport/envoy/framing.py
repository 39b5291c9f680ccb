"""gRPC over HTTP/2 as ASGI delivers it: the headers of a call, its deadline, and its length-prefixed messages."""

from collections.abc import Awaitable, Callable, MutableMapping
from time import monotonic
from typing import Any, Final, TypeAlias

from ratelimit_service.api.messages import MAX_MESSAGE, deadline_passed, message_too_large
from ratelimit_service.api.presented import CERTIFICATE_HEADER, Presented
from ratelimit_service.errors import ResourceExhausted, Unimplemented

Event: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

PREFIX: Final = 5
"""Bytes of the prefix of each message."""

_GRPC: Final = b"application/grpc"
_SECONDS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_CERTIFICATE: Final = CERTIFICATE_HEADER.encode()
_MAX_DIGITS: Final = 9
"""gRPC's PROTOCOL-HTTP2 allows 8; grpc-core accepts 9."""


class ProtocolError(Exception):
    """The request violates gRPC's PROTOCOL-HTTP2. The response is grpc-core's: INTERNAL and a sentence, no details."""


class NotGrpc(Exception):
    """The request is plain HTTP. `status` is the HTTP status of the response."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status


class CallerGone(Exception):
    """The caller has disconnected or cancelled: nothing is to be charged, and there is no response."""


FrameError: TypeAlias = Unimplemented | ResourceExhausted | ProtocolError


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The headers of a gRPC call. Raises NotGrpc, and ProtocolError if trailers could not be sent in response."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    kind = headers.get(b"content-type", b"")
    if kind != _GRPC and not kind.startswith((_GRPC + b"+", _GRPC + b";")):
        raise NotGrpc(415)
    if scope["method"] != "POST":
        raise NotGrpc(405)
    if headers.get(b"te") != b"trailers":
        raise ProtocolError("the header `te: trailers` is missing")
    return headers


def presented_by(scope: Scope, headers: dict[bytes, bytes], *, certificates: bool) -> Presented:
    """What a call presents of its caller. Of several headers `authorization` Envoy makes one.

    The peer is the other end of the connection itself: our Envoy takes it from no header. CERTIFICATES: whether it
    writes the header that names the caller's certificate, which is anybody's otherwise.
    """
    certificate = headers.get(_CERTIFICATE, b"").decode("ascii", "replace") if certificates else ""
    return Presented(headers.get(b"authorization"), scope.get("client") or "", certificate)


def deadline_of(headers: dict[bytes, bytes], came: float | None = None) -> float | None:
    """The monotonic time in seconds at which the caller stops waiting, None if never. Raises ProtocolError.

    CAME is when the headers came, None if just now.
    """
    timeout = headers.get(b"grpc-timeout")
    return None if timeout is None else deadline_in(timeout, monotonic() if came is None else came)


def deadline_in(timeout: bytes, came: float) -> float:
    """The monotonic time in seconds at which the caller of a call that CAME then stops waiting, by its `grpc-timeout`.

    Raises ProtocolError.
    """
    digits, unit = timeout[:-1], timeout[-1:]
    if unit not in _SECONDS or not digits.isdigit() or len(digits) > _MAX_DIGITS:
        raise ProtocolError(f"grpc-timeout is {timeout[:32]!r}; send digits and one of H M S m u n")
    return came + int(digits) * _SECONDS[unit]


def expected_deadline(headers: dict[bytes, bytes], came: float | None = None) -> float | None:
    """The same for a call that is yet to be read; None also if the header is invalid, which is reported when it is."""
    try:
        return deadline_of(headers, came)
    except ProtocolError:
        return None


def check_deadline(deadline: float | None) -> None:
    """Raise DeadlineExceeded if the caller no longer waits."""
    if deadline is not None and monotonic() >= deadline:
        raise deadline_passed()


def body_of(event: Event) -> tuple[bytes, bool]:
    """The part of the request body in an event, and whether more may follow. Raises CallerGone."""
    if event["type"] != "http.request":
        raise CallerGone
    return event["body"], event["more_body"]


def frame(message: bytes) -> bytes:
    """The message with its prefix."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def single_message(body: bytes) -> bytes | None:
    """The message of a body that is exactly one valid message, as nearly all are; None for any other."""
    size = len(body) - PREFIX
    # The flag, which must be 0, is the most significant of the five bytes.
    return body[PREFIX:] if int.from_bytes(body[:PREFIX], "big") == size <= MAX_MESSAGE else None


class FrameReader:
    """Splits a request body into messages as it arrives. Buffers at most one incomplete message."""

    __slots__ = ("_encoding", "_max_message", "_needed", "_rest", "error")

    def __init__(self, encoding: bytes | None, max_message: int = MAX_MESSAGE) -> None:
        """ENCODING is the call's `grpc-encoding`, None if it has none. MAX_MESSAGE in bytes."""
        self._encoding = encoding
        self._max_message = max_message
        self._rest = bytearray()
        self._needed = PREFIX
        self.error: FrameError | None = None
        """What is wrong with the message after the last valid one: it is compressed, or too large.

        Known as soon as the message's prefix has arrived. Nothing more may be fed then.
        """

    @property
    def incomplete(self) -> int:
        """Bytes that have arrived of a message that is not whole."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Add what has arrived, and return the messages that are now complete and valid."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return []  # nothing is scanned twice, however small the parts
            data = bytes(self._rest)
        messages: list[bytes] = []
        start, end = 0, len(data)
        self._needed = PREFIX
        while end - start >= PREFIX:
            size = int.from_bytes(data[start + 1 : start + PREFIX], "big")
            if data[start] or size > self._max_message:
                self.error = self._compression_error() if data[start] else message_too_large(size, self._max_message)
                break
            if end - start - PREFIX < size:
                self._needed = PREFIX + size
                break
            start += PREFIX
            messages.append(data[start : start + size])
            start += size
        self._rest = bytearray(data[start:])
        return messages

    def _compression_error(self) -> FrameError:
        if self._encoding in (None, b"identity"):
            return ProtocolError("a message is flagged as compressed, but the call has no grpc-encoding")
        encoding = self._encoding[:64].decode("ascii", "replace")
        return Unimplemented(
            f"the messages are compressed with {encoding!r}; send them uncompressed",
            reason="NOT_SERVED",
            metadata={"encoding": encoding},
        )
