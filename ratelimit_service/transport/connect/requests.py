"""Requests of HTTP: which of them are calls, and of those that are not, what is wrong and how it is done right."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from http import HTTPStatus
from typing import Any, Final

from starlette.types import Receive

from ratelimit_service.api.messages import MAX_MESSAGE, message_too_large
from ratelimit_service.errors import InvalidArgument, ResourceExhausted, Unimplemented
from ratelimit_service.transport.connect.codecs import CODECS, JSON, Codec
from ratelimit_service.transport.connect.methods import METHODS, STREAMS, Method
from ratelimit_service.transport.connect.responses import Response, refused

MAX_BODY: Final = MAX_MESSAGE
"""Bytes of a request's body, whoever sends it: the lists that an administrator may send larger are for gRPC."""

MAX_DISCARDED: Final = 16 * MAX_BODY
"""Bytes of a body that is too large which are read all the same: a sender that is still sending reads no response."""

MAX_HEADERS: Final = 16 * 1024
"""Bytes of the headers of a request, names and values together, also if they arrive at once."""

CALL_SECONDS: Final = 60.0
"""For a call whose caller allows it more, or does not say."""

_MAX_TIMEOUT_DIGITS: Final = 10
_EXAMPLE: Final = "/ratelimit.v1.RateLimitService/CheckLimit"


class Refused(Exception):
    """A request that is no call, with the response to it."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


class Gone(Exception):
    """The caller has closed the connection, and waits for no response."""


class Request:
    """One request without its body: its path, and its headers, of which several of one name are joined by commas."""

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self.path: str = scope["path"]
        self.verb: str = scope["method"]
        self.scheme: str = scope["scheme"]
        self._headers: Iterable[tuple[bytes, bytes]] = scope["headers"]

    def header(self, name: str) -> str | None:
        """The value of the header NAME, None if there is none."""
        values = [value for each, value in self._headers if each == name.encode()]
        return b",".join(values).decode("latin-1") if values else None

    def check_connection(self, *, tls_only: bool) -> None:
        """Raise Refused, before the body is read, for plain text where TLS is meant, and for headers out of bounds."""
        if tls_only and self.scheme != "https":
            error = Unimplemented(
                "plain text is not served here; call it by https://",
                reason="NOT_SERVED",
                metadata={"encoding": "plain text"},
            )
            raise Refused(refused(error, HTTPStatus.BAD_REQUEST).closing())
        size = sum(len(name) + len(value) for name, value in self._headers)
        if size > MAX_HEADERS:
            large = ResourceExhausted(
                f"the headers have {size} bytes; at most {MAX_HEADERS} are accepted",
                reason="MESSAGE_TOO_LARGE",
                metadata={"size": str(size), "limit": str(MAX_HEADERS)},
            )
            raise Refused(refused(large, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE).closing())
        if self.header("content-length") is not None and self.header("transfer-encoding") is not None:
            # A proxy before us may take the other one, and what follows as a request.
            two = InvalidArgument.of("content-length", "is sent with transfer-encoding; send one of them")
            raise Refused(refused(two, HTTPStatus.BAD_REQUEST).closing())

    def method(self) -> Method:
        """The method that is called. Raises Refused."""
        method = METHODS.get(self.path)
        if method is None:
            raise Refused(_unknown(self.path))
        if self.verb != "POST":
            error = _not_served(
                f"{self.verb} is not served; send POST, with a JSON object as the body", "method", self.path
            )
            raise Refused(refused(error, HTTPStatus.METHOD_NOT_ALLOWED, allow="POST"))
        if self.header("origin") is not None:
            error = _not_served(
                "pages of other sites may not call this service; call it from a server, without the header origin",
                "method",
                self.path,
            )
            raise Refused(refused(error, HTTPStatus.FORBIDDEN))
        return method

    def seconds(self) -> float:
        """How long the caller waits, at most CALL_SECONDS. Raises InvalidArgument."""
        text = self.header("connect-timeout-ms")
        if text is None:
            return CALL_SECONDS
        if not (text.isascii() and text.isdigit() and len(text) <= _MAX_TIMEOUT_DIGITS):
            raise InvalidArgument.of(
                "connect-timeout-ms", f"is {text[:80]!r}; write milliseconds, as a whole number of up to 10 digits"
            )
        return min(int(text) / 1_000, CALL_SECONDS)

    def codec(self) -> Codec:
        """The form of the message. Raises Refused for what is none of them, such as that of a browser's form."""
        kind = self.header("content-type")
        name, _, parameters = (kind or "").lower().partition(";")
        codec = CODECS.get(name.strip())
        if codec is None or parameters.strip().replace('"', "") not in {"", "charset=utf-8"}:
            found = "missing" if kind is None else repr(kind[:80])
            error = _not_served(
                f"the content-type is {found}; send JSON, with the header content-type: {JSON.content_type}",
                "encoding",
                (kind or "")[:80],
            )
            raise Refused(refused(error, HTTPStatus.UNSUPPORTED_MEDIA_TYPE, accept_post=", ".join(CODECS)))
        encoding = self.header("content-encoding")
        if encoding is not None and encoding.strip().lower() != "identity":
            error = _not_served(
                f"the content-encoding {encoding[:80]!r} is not supported; send the body as it is",
                "encoding",
                encoding[:80],
            )
            raise Refused(refused(error, HTTPStatus.UNSUPPORTED_MEDIA_TYPE, accept_encoding="identity"))
        version = self.header("connect-protocol-version")
        if version is not None and version.strip() != "1":
            raise InvalidArgument.of("connect-protocol-version", f"is {version[:80]!r}; write 1, or leave it out")
        return codec


async def read_body(receive: Receive) -> bytes:
    """The body of a request, of at most MAX_BODY bytes. Raises Refused, Gone."""
    body, size, more = bytearray(), 0, True
    while more and size <= MAX_DISCARDED:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise Gone
        part, more = event.get("body", b""), event.get("more_body", False)
        size += len(part)
        if size > MAX_BODY:
            body.clear()
        else:
            body += part
    if size <= MAX_BODY:
        return bytes(body)
    response = refused(message_too_large(size, MAX_BODY), HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    raise Refused(response.closing() if more else response)


def _unknown(path: str) -> Response:
    """The response for a PATH at which there is no method."""
    if path in STREAMS:
        error = _not_served(f"{path} is a stream, which is served by gRPC alone; use BatchCheckLimit", "method", path)
        return refused(error, HTTPStatus.NOT_FOUND)
    near = get_close_matches(path[:256], METHODS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"methods are paths such as {_EXAMPLE}"
    return refused(_not_served(f"{path[:128]} is not served here; {hint}", "method", path[:256]), HTTPStatus.NOT_FOUND)


def _not_served(message: str, what: str, value: str) -> Unimplemented:
    return Unimplemented(message, reason="NOT_SERVED", metadata={what: value})
