"""The middleware for WSGI applications (Flask, Django, Bottle, Falcon, ...), and what it reads from their environ."""

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ._guard import Reading, guarded
from .client import RateLimitClient
from .error import invalid_utf8
from .headers import HeaderStyle, limit_headers
from .refusal import Refusal

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


def x_api_key(environ: "WSGIEnvironment") -> str:
    """The API key in the header `x-api-key`. Empty when there is none."""
    key: str = environ.get("HTTP_X_API_KEY", "")
    return key


def method_and_path(environ: "WSGIEnvironment") -> str:
    """The method, which is GET for HEAD, and the decoded path without the query: `GET /v1/orders`.

    Raises RateLimitError for a path that is not valid UTF-8.
    """
    path: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    method = environ["REQUEST_METHOD"].upper()  # as most frameworks do, which then run the handler of GET
    try:
        return f"{'GET' if method == 'HEAD' else method} {path.encode('latin-1').decode()}"
    except UnicodeError:
        raise invalid_utf8("resource") from None


def cost_of_one(_environ: "WSGIEnvironment") -> int:
    """Every request costs one token."""
    return 1


def is_preflight(environ: "WSGIEnvironment") -> bool:
    """Whether a request is a CORS preflight, which browsers send without a key: for the option `skip`."""
    names = {"HTTP_ORIGIN", "HTTP_ACCESS_CONTROL_REQUEST_METHOD"}
    return environ["REQUEST_METHOD"] == "OPTIONS" and names <= environ.keys()


def never(_environ: "WSGIEnvironment") -> bool:
    """No request is skipped."""
    return False


class WsgiRateLimitMiddleware:
    """Checks each HTTP request of APP with CLIENT.

    An allowed request proceeds, and its response gets the headers; any other gets the response of a `Refusal`, with a
    body of type `application/problem+json`. A RateLimitError that is not the caller's is raised, so that the server
    responds with 500.

    KEY returns a request's API key (a request without one is refused), RESOURCE what it calls, COST how many tokens it
    takes: 0 to 9,007,199,254. A request for which SKIP is true proceeds without a check, such as one for which
    `is_preflight` is. All four are functions of the environ of PEP 3333. HEADER_STYLE is the style of the headers.
    """

    def __init__(  # noqa: PLR0913  each is independent of the others
        self,
        app: "WSGIApplication",
        client: RateLimitClient,
        *,
        key: "Callable[[WSGIEnvironment], str]" = x_api_key,
        resource: "Callable[[WSGIEnvironment], str]" = method_and_path,
        cost: "Callable[[WSGIEnvironment], int]" = cost_of_one,
        skip: "Callable[[WSGIEnvironment], bool]" = never,
        header_style: HeaderStyle = HeaderStyle.IETF,
    ) -> None:
        self._app = app
        self._client = client
        self._read = Reading(key, resource, cost)
        self._skip = skip
        self._header_style = header_style

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Serve one request, as WSGI defines it."""
        if self._skip(environ):
            return self._app(environ, start_response)
        checked = guarded(self._client, self._read, environ)
        if isinstance(checked, Refusal):
            body = json.dumps(checked.problem()).encode()
            headers = {"Content-Type": "application/problem+json", "Content-Length": str(len(body))}
            status = f"{int(checked.http_status)} {checked.http_status.phrase}"
            start_response(status, [*headers.items(), *checked.headers(self._header_style).items()])
            return [body]

        added = limit_headers(checked, self._header_style).items()

        def start_with_headers(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Any:  # noqa: ANN401
            return start_response(status, [*headers, *added], exc_info)

        return self._app(environ, start_with_headers)
