"""What is read from the request that Envoy wants authorized."""

from collections.abc import Callable
from typing import Final, TypeAlias
from urllib.parse import unquote

from ratelimit_service._gen.envoy.service.auth.v3.attribute_context_pb2 import AttributeContext
from ratelimit_service._gen.envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from ratelimit_service.api.messages import parse
from ratelimit_service.api.wire import SCANNED, TooManyFields, spans
from ratelimit_service.decision.engine import MAX_COST
from ratelimit_service.decision.limit import MAX_RESOURCE_BYTES, check_resource, clip_resource
from ratelimit_service.errors import InvalidArgument

ReadKey: TypeAlias = Callable[[str], str]
"""The API key in the value of its header; empty if there is none."""

MAX_HEADERS: Final = 256
"""Headers of one request. Envoy accepts 100 unless it is configured otherwise."""

MAX_EXTENSIONS: Final = 256
"""Entries of a route's `context_extensions`, of which two are read."""

EXTENSIONS: Final = "attributes.context_extensions"
"""The field that the route's author sets, and no client."""

_HEADERS: Final = "attributes.request.http.headers"
_MAX_PATH: Final = 12 * MAX_RESOURCE_BYTES
"""Characters of a path that are decoded. Each byte of a resource comes from at most 12, four escapes: more of the path
cannot become part of the resource, and may be 64 KiB."""

_OTHER_FIELDS: Final = 64  # of any of the messages, those that we do not know included
_BOUNDS: Final = (
    (0x0A, 0),  # the attributes in a message
    (0x22, MAX_EXTENSIONS),  # the request in the attributes
    (0x12, 0),  # the HTTP request in the request
    (0x6A, MAX_HEADERS),  # the header map in the HTTP request
    (0, MAX_HEADERS),  # nothing in that
)
"""The fields that contain one another, and how many others may be beside each."""

_COST: Final = "cost"
_RESOURCE: Final = "resource"
_BEARER: Final = "bearer"


def key_reader(header: str) -> ReadKey:
    """Reads the API key from the value of this header: in `authorization` after `Bearer`, in any other as it is."""
    return _after_bearer if header == "authorization" else str.strip


def read_request(data: bytes) -> AttributeContext:
    """The attributes in a CheckRequest. Raises InvalidArgument if it is malformed or has too many headers."""
    if len(data) > SCANNED:
        _check_counts(data)
    return parse(data, CheckRequest).attributes


def headers_of(http: AttributeContext.HttpRequest, first: str, second: str) -> tuple[str, str]:
    """The values of two headers, each empty if it was not sent, and joined by commas if it came several times.

    Raises InvalidArgument if there are more than MAX_HEADERS.
    """
    if not http.HasField("header_map"):
        headers = http.headers
        if len(headers) > MAX_HEADERS:
            raise _too_many_headers()
        return headers.get(first, ""), headers.get(second, "")
    raw = http.header_map.headers
    if len(raw) > MAX_HEADERS:
        raise _too_many_headers()
    found: dict[str, list[str]] = {first: [], second: []}
    for header in raw[:]:
        values = found.get(header.key)
        if values is not None:
            values.append(_value(header.value, header.raw_value))
    return ",".join(found[first]), ",".join(found[second])


def resource_of(attributes: AttributeContext) -> str:
    """The resource that is called: the route's own, else method (GET for HEAD) and decoded path without the query.

    The latter are the client's, so a path that is too long is truncated, before any of it is decoded, and the method is
    in upper case, as most frameworks read it: one that runs the handler of GET for `get` would evade a limit. Raises
    InvalidArgument for the route's own.
    """
    extensions = attributes.context_extensions
    if _RESOURCE in extensions:
        resource = extensions[_RESOURCE]
        check_resource(f"{EXTENSIONS}[{_RESOURCE}]", resource)
        return resource
    http = attributes.request.http
    path = http.path[:_MAX_PATH].partition("?")[0]
    if "%" in path:
        path = unquote(path)  # or an escaped spelling would evade a limit
    method = http.method.upper()
    if method == "HEAD":
        method = "GET"  # the same work for the upstream
    return clip_resource(f"{method} {path}")


def cost_of(attributes: AttributeContext) -> int:
    """The cost of a request in tokens as the route sets it, else 1. Raises InvalidArgument."""
    extensions = attributes.context_extensions
    if _COST not in extensions:
        return 1
    text = extensions[_COST]
    cost = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_COST)) else -1
    if not 0 <= cost <= MAX_COST:
        raise InvalidArgument.of(
            f"{EXTENSIONS}[{_COST}]", f"is {text[:32]!r}; it must be a whole number between 0 and {MAX_COST}"
        )
    return cost


def _check_counts(data: bytes) -> None:
    """Raise InvalidArgument if a large message has more headers, or entries from the route, than are read."""
    try:
        outer = [(0, len(data))]
        for tag, most in _BOUNDS:
            outer = [span for start, end in outer for span in spans(data, start, end, tag, most + _OTHER_FIELDS)]
    except TooManyFields:
        raise _too_many_headers() from None


def _too_many_headers() -> InvalidArgument:
    return InvalidArgument.of(_HEADERS, f"are too many; at most {MAX_HEADERS} are read")


def _after_bearer(value: str) -> str:
    scheme, _, key = value.strip().partition(" ")
    return key.strip() if scheme.lower() == _BEARER else ""


def _value(text: str, raw: bytes) -> str:
    return raw.decode("utf-8", "replace") if raw else text
