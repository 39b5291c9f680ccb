"""The WSGI middleware."""

import json
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote_to_bytes
from wsgiref.types import StartResponse, WSGIEnvironment
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from ratelimit_client import HeaderStyle, RateLimitClient, WsgiRateLimitMiddleware
from ratelimit_client.wsgi import is_preflight

from clients.asgi_host import Response
from clients.case_runner import CaseRunner
from clients.contract import Case, cases
from clients.scripted_server import ScriptedServer
from clients.test_python_middleware import WITHIN, WITHOUT_KEYS, verify


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """An application that responds to everything with 200 and `hello`."""
    del environ
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def request(app: Any, method: str, path: str, headers: dict[str, str], mounted: str = "") -> Response:  # noqa: ANN401
    """Send one HTTP request, both sides checked against PEP 3333. What APP raises becomes 500, as in every server."""
    raw, _, query = path.partition("?")
    environ: WSGIEnvironment = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
    decoded = unquote_to_bytes(raw).decode("latin-1")
    environ |= {"REQUEST_METHOD": method, "SCRIPT_NAME": mounted, "PATH_INFO": decoded, "QUERY_STRING": query}
    setup_testing_defaults(environ)
    response = Response()

    def start_response(status: str, sent: list[tuple[str, str]], _exc_info: object = None, /) -> Any:  # noqa: ANN401
        response.status = int(status.split(maxsplit=1)[0])
        response.headers = {name.lower(): value for name, value in sent}
        return lambda _: None

    try:
        body = validator(app)(environ, start_response)
    except AssertionError:
        raise
    except Exception:  # noqa: BLE001  a server responds with 500 to every exception
        return Response(500)
    response.body = b"".join(body)
    body.close()  # type: ignore[attr-defined]
    return response


@pytest.fixture
def client(scripted: ScriptedServer) -> Iterator[RateLimitClient]:
    """A client of the scripted server."""
    with RateLimitClient(scripted.target, deadline=10, denial_cache_size=0) as connected:
        connected.wait_until_connected()
        yield connected


@cases("middleware")
def test_the_middleware_keeps_the_contract(case: Case, scripted: ScriptedServer) -> None:
    """Each request of each case gets its response, and is checked, as the contract specifies."""
    runner = CaseRunner(case, scripted, scripted.target)
    with RateLimitClient(scripted.target, **runner.options) as client:
        client.wait_until_connected()
        app = WsgiRateLimitMiddleware(hello, client)
        for step in case["steps"]:
            if runner.advance(step):
                continue
            runner.script(step)
            response = request(app, **step["request"])
            runner.verify(step, None, client.failures, 0)
            verify(step["expect"]["response"], response)


def test_the_options(client: RateLimitClient, scripted: ScriptedServer) -> None:
    """Key, resource, cost and header style are those of the options; the path has that of the mount before it."""
    app = WsgiRateLimitMiddleware(
        hello,
        client,
        key=lambda environ: environ["HTTP_X_CUSTOMER_KEY"],
        resource=lambda environ: f"orders.{environ['REQUEST_METHOD'].lower()}",
        cost=lambda environ: len(environ["PATH_INFO"]),
        header_style=HeaderStyle.X_RATELIMIT,
    )
    scripted.script([WITHIN])
    response = request(app, "POST", "/1234", {"x-customer-key": "rlk_test_b"})
    (attempt,) = scripted.attempts
    assert (attempt.api_key, attempt.resource, attempt.cost) == ("rlk_test_b", "orders.post", 5)
    assert response.headers["x-ratelimit-remaining"] == "19"
    assert response.headers["content-type"] == "text/plain"


@pytest.mark.parametrize(
    ("method", "resource"), [("get", "GET /orders"), ("Head", "GET /orders"), ("pUt", "PUT /orders")]
)
def test_another_spelling_of_a_method(
    method: str, resource: str, client: RateLimitClient, scripted: ScriptedServer
) -> None:
    """It has the limit of the method whose handler frameworks run for it."""
    scripted.script([WITHIN])
    environ: WSGIEnvironment = {"REQUEST_METHOD": method, "PATH_INFO": "/orders", "HTTP_X_API_KEY": "rlk_test_a"}
    WsgiRateLimitMiddleware(hello, client)(environ, lambda *_: lambda _: None)
    assert [attempt.resource for attempt in scripted.attempts] == [resource]


def test_an_application_below_a_path(client: RateLimitClient, scripted: ScriptedServer) -> None:
    """Its resource is the whole path."""
    scripted.script([WITHIN])
    request(WsgiRateLimitMiddleware(hello, client), "GET", "/orders", {"x-api-key": "rlk_test_a"}, mounted="/shop")
    assert scripted.attempts[0].resource == "GET /shop/orders"


def test_what_is_skipped_is_not_checked(client: RateLimitClient, scripted: ScriptedServer) -> None:
    """Health checks and CORS preflights, which have no key, proceed without a check and without headers."""

    def skip(environ: WSGIEnvironment) -> bool:
        return environ["PATH_INFO"] == "/healthz" or is_preflight(environ)

    app = WsgiRateLimitMiddleware(hello, client, skip=skip)
    for method, path, headers, status in WITHOUT_KEYS:
        response = request(app, method, path, headers)
        assert (response.status, "ratelimit" in response.headers) == (status, False)
    assert json.loads(request(app, "GET", "/", {}).body)["reason"] == "KEY_MISSING"
    assert scripted.attempts == []
