"""What the middleware reads from the scope of an ASGI connection."""

from collections.abc import Iterable, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

from .error import invalid_utf8

Scope = MutableMapping[str, Any]

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def x_api_key(scope: Scope) -> str:
    """The API key in the header `x-api-key`. Empty when there is none."""
    found: bytes = next((value for name, value in scope["headers"] if name.lower() == b"x-api-key"), b"")
    return found.decode("latin-1")


def method_and_path(scope: Scope) -> str:
    """The method and the decoded path without the query: `GET /v1/orders`. HEAD and a websocket are a GET.

    Raises RateLimitError for a path that is not valid UTF-8.
    """
    if _REPLACEMENT in scope["path"] and not _is_utf8(scope.get("raw_path")):
        raise invalid_utf8("resource")
    return f"{_method(scope)} {scope['path']}"


def cost_of_one(_scope: Scope) -> int:
    """Every request costs one token."""
    return 1


def method_and_route(scope: Scope) -> str:
    """The method and the route of Starlette or FastAPI: `GET /v1/orders/{id}`. Without a route, `method_and_path`.

    HEAD and a websocket are a GET here, too.
    """
    route = getattr(scope.get("route"), "path", None) or _route(getattr(scope.get("app"), "routes", ()), scope)
    return f"{_method(scope)} {route}" if route else method_and_path(scope)


def is_preflight(scope: Scope) -> bool:
    """Whether a request is a CORS preflight, which browsers send without a key: for the option `skip`."""
    if scope.get("method") != "OPTIONS":
        return False
    names = {name.lower() for name, _ in scope["headers"]}
    return {b"origin", b"access-control-request-method"} <= names


def never(_scope: Scope) -> bool:
    """No request is skipped."""
    return False


def _method(scope: Scope) -> str:
    """The method whose handler the application runs, which may be another spelling's, and is that of GET for HEAD."""
    method: str = scope.get("method", "GET").upper()
    return "GET" if method == "HEAD" else method


def _route(routes: Iterable[Any], scope: Scope) -> str:
    """The path of the first of ROUTES that the router would take, with those it is mounted below. Empty: none."""
    for route in routes:
        match, below = route.matches(scope)
        if match.name == "FULL":
            path: str = getattr(route, "path", "")
            mounted = getattr(route, "routes", None)
            if not mounted:
                return path
            inner = _route(mounted, {**scope, **below})
            return path + inner if inner else ""
    return ""


def _is_utf8(raw_path: bytes | None) -> bool:
    """Whether a path with U+FFFD has it in its raw form too. Servers substitute it for bytes that are not UTF-8."""
    if raw_path is None:
        return False
    try:
        unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        return False
    return True
