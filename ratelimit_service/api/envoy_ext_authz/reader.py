"""What is read from the request that Envoy wants authorized."""

from collections.abc import Callable
from typing import Final, TypeAlias
from urllib.parse import unquote

from ratelimit_service._gen.envoy.service.auth.v3.attribute_context_pb2 import AttributeContext
from ratelimit_service.decision.engine import MAX_COST
from ratelimit_service.decision.limit import check_resource, clip_resource
from ratelimit_service.errors import InvalidArgument

ReadKey: TypeAlias = Callable[[str], str]
"""The API key in the value of its header; empty if there is none."""

_EXTENSIONS: Final = "attributes.context_extensions"
_COST: Final = "cost"
_RESOURCE: Final = "resource"
_BEARER: Final = "bearer"


def key_reader(header: str) -> ReadKey:
    """Reads the API key from the value of this header: in `authorization` after `Bearer`, in any other as it is."""
    return _after_bearer if header == "authorization" else str.strip


def header_of(http: AttributeContext.HttpRequest, name: str) -> str:
    """The value of a header, empty if it was not sent. Values of one that came several times are joined by commas."""
    if http.HasField("header_map"):
        return ",".join(
            _value(header.value, header.raw_value) for header in http.header_map.headers if header.key == name
        )
    return http.headers.get(name, "")


def resource_of(attributes: AttributeContext) -> str:
    """The resource that is called: the route's own, else method and decoded path without the query.

    The latter are the client's, so a path that is too long is truncated. Raises InvalidArgument for the route's own.
    """
    extensions = attributes.context_extensions
    if _RESOURCE in extensions:
        resource = extensions[_RESOURCE]
        check_resource(f"{_EXTENSIONS}[{_RESOURCE}]", resource)
        return resource
    http = attributes.request.http
    path = http.path.partition("?")[0]
    if "%" in path:
        path = unquote(path)  # or an escaped spelling would evade a limit
    return clip_resource(f"{http.method} {path}")


def cost_of(attributes: AttributeContext) -> int:
    """The cost of a request in tokens as the route sets it, else 1. Raises InvalidArgument."""
    extensions = attributes.context_extensions
    if _COST not in extensions:
        return 1
    text = extensions[_COST]
    cost = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_COST)) else -1
    if not 0 <= cost <= MAX_COST:
        raise InvalidArgument.of(
            f"{_EXTENSIONS}[{_COST}]", f"is {text[:32]!r}; it must be a whole number between 0 and {MAX_COST}"
        )
    return cost


def _after_bearer(value: str) -> str:
    scheme, _, key = value.strip().partition(" ")
    return key.strip() if scheme.lower() == _BEARER else ""


def _value(text: str, raw: bytes) -> str:
    return raw.decode("utf-8", "replace") if raw else text
