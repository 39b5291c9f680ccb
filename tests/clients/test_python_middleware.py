"""The ASGI middleware."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from ratelimit_client import (
    AsyncRateLimitClient,
    HeaderStyle,
    RateLimitMiddleware,
    is_preflight,
    method_and_route,
)
from ratelimit_client.middleware import Scope
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from clients.asgi_host import Response, handshake, hello, request
from clients.case_runner import CaseRunner
from clients.contract import Case, cases
from clients.scripted_server import ScriptedServer

_OVER: dict[str, Any] = {
    "response": {
        "reason": "OVER_LIMIT",
        "limit": "burst",
        "retry_after": "0.5s",
        "limits": [{"name": "burst", "limit": "20", "retry_after": "0.5s", "would_deny": True, "window": "2s"}],
    }
}
WITHIN: dict[str, Any] = {
    "response": {
        "allowed": True,
        "reason": "WITHIN_LIMIT",
        "limit": "burst",
        "limits": [{"name": "burst", "limit": "20", "remaining": "19", "reset_after": "0.1s", "window": "2s"}],
    }
}
_KEY = {"x-api-key": "rlk_test_a"}
_PREFLIGHT = {"Origin": "https://example.com", "Access-Control-Request-Method": "PUT"}
WITHOUT_KEYS: tuple[tuple[str, str, dict[str, str], int], ...] = (
    ("GET", "/healthz", {}, 200),
    ("OPTIONS", "/v1/orders", _PREFLIGHT, 200),
    ("OPTIONS", "/v1/orders", {"Origin": "https://example.com"}, 401),
    ("PUT", "/v1/orders", _PREFLIGHT, 401),
)
"""Requests without a key: method, path, headers, and the status where health checks and preflights are skipped."""


@pytest_asyncio.fixture
async def client(scripted: ScriptedServer) -> AsyncIterator[AsyncRateLimitClient]:
    """A client of the scripted server."""
    async with AsyncRateLimitClient(scripted.target, deadline=10, denial_cache_size=0) as connected:
        await connected.wait_until_connected()
        yield connected


@cases("middleware")
async def test_the_middleware_keeps_the_contract(case: Case, scripted: ScriptedServer) -> None:
    """Each request of each case gets its response, and is checked, as the contract specifies."""
    runner = CaseRunner(case, scripted, scripted.target)
    async with AsyncRateLimitClient(scripted.target, **runner.options) as client:
        await client.wait_until_connected()
        app = RateLimitMiddleware(hello, client)
        for step in case["steps"]:
            if runner.advance(step):
                continue
            runner.script(step)
            response = await request(app, **step["request"])
            await asyncio.to_thread(runner.verify, step, None, client.failures, 0)
            verify(step["expect"]["response"], response)


def verify(expected: dict[str, Any], response: Response) -> None:
    """Assert that a response is the expected one."""
    assert response.status == expected["status"]
    for name, value in expected.get("headers", {}).items():
        assert response.headers.get(name) == value
    if "problem" in expected:
        assert response.problem == expected["problem"]
        assert response.headers["content-length"] == str(len(response.body))
    if "body" in expected:
        assert response.body.decode() == expected["body"]


async def test_the_options(client: AsyncRateLimitClient, scripted: ScriptedServer) -> None:
    """Key, resource, cost and header style are those of the options."""
    app = RateLimitMiddleware(
        hello,
        client,
        key=lambda scope: dict(scope["headers"])[b"x-customer-key"].decode(),
        resource=lambda scope: f"orders.{scope['method'].lower()}",
        cost=lambda scope: len(scope["path"]),
        header_style=HeaderStyle.X_RATELIMIT,
    )
    scripted.script([WITHIN])
    response = await request(app, "POST", "/1234", {"x-customer-key": "rlk_test_b"})
    (attempt,) = scripted.attempts
    assert (attempt.api_key, attempt.resource, attempt.cost) == ("rlk_test_b", "orders.post", 5)
    assert response.headers["x-ratelimit-remaining"] == "19"
    assert response.headers["content-type"] == "text/plain"
    assert "ratelimit" not in response.headers


@pytest.mark.parametrize("path", ["/" + b"\xff".decode(errors=how) for how in ("replace", "surrogateescape")])
async def test_a_path_that_may_not_be_utf8_is_refused(
    path: str, client: AsyncRateLimitClient, scripted: ScriptedServer
) -> None:
    """If the server passes no raw path, or keeps invalid bytes as surrogates, the request does not pass."""
    messages: list[dict[str, Any]] = []

    async def send(message: Any) -> None:  # noqa: ANN401
        messages.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"x-api-key", b"rlk_test_a")]}
    await RateLimitMiddleware(hello, client)(scope, None, send)
    assert messages[0]["status"] == 400
    assert b"resource: is not valid UTF-8" in messages[1]["body"]
    assert scripted.attempts == []


async def test_what_is_skipped_is_not_checked(client: AsyncRateLimitClient, scripted: ScriptedServer) -> None:
    """Health checks and CORS preflights, which have no key, proceed without a check and without headers."""

    def skip(scope: Scope) -> bool:
        return scope["path"] == "/healthz" or is_preflight(scope)

    app = RateLimitMiddleware(hello, client, skip=skip)
    for method, path, headers, status in WITHOUT_KEYS:
        response = await request(app, method, path, headers)
        assert (response.status, "ratelimit" in response.headers) == (status, False)
    assert scripted.attempts == []


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/orders/7", "GET /orders/{id}"),
        ("/orders/7?page=2", "GET /orders/{id}"),
        ("/shop/carts/8", "GET /shop/carts/{cart:int}"),
        ("/shop/nothing", "GET /shop/nothing"),
        ("/nothing", "GET /nothing"),
        ("/files/a/b", "GET /files"),
    ],
)
async def test_the_route_in_place_of_the_path(
    path: str, resource: str, client: AsyncRateLimitClient, scripted: ScriptedServer
) -> None:
    """In Starlette the resource is the route, below what it is mounted at; without a route it is the path."""

    async def page(_request: Request) -> PlainTextResponse:
        return PlainTextResponse("page")

    app = Starlette(
        routes=[
            Route("/orders/{id}", page),
            Mount("/shop", routes=[Route("/carts/{cart:int}", page)]),
            Mount("/files", app=hello),
        ],
        middleware=[Middleware(RateLimitMiddleware, client=client, resource=method_and_route)],
    )
    for method in ("GET", "HEAD"):
        scripted.script([WITHIN])
        await request(app, method, path, _KEY)
        assert [attempt.resource for attempt in scripted.attempts] == [resource]


@pytest.mark.parametrize(
    ("method", "resource"), [("get", "GET /orders"), ("Head", "GET /orders"), ("pUt", "PUT /orders")]
)
async def test_another_spelling_of_a_method(
    method: str, resource: str, client: AsyncRateLimitClient, scripted: ScriptedServer
) -> None:
    """It has the limit of the method whose handler frameworks run for it."""
    scripted.script([WITHIN])
    await request(RateLimitMiddleware(hello, client), method, "/orders", _KEY)
    assert [attempt.resource for attempt in scripted.attempts] == [resource]


async def test_the_route_of_a_middleware_of_the_route(client: AsyncRateLimitClient, scripted: ScriptedServer) -> None:
    """Where the framework has put the route into the scope, as FastAPI does, it is that."""

    class ApiRoute:
        path = "/v1/orders/{id}"

    async def routed(scope: Scope, receive: Any, send: Any) -> None:  # noqa: ANN401
        guarded = RateLimitMiddleware(hello, client, resource=method_and_route)
        await guarded({**scope, "route": ApiRoute()}, receive, send)

    scripted.script([WITHIN])
    await request(routed, "GET", "/v1/orders/7", _KEY)
    assert scripted.attempts[0].resource == "GET /v1/orders/{id}"


async def test_lifespan_is_passed_through(client: AsyncRateLimitClient, scripted: ScriptedServer) -> None:
    """A scope that is not a request goes to the application unchanged, and nothing is checked."""
    seen: list[str] = []

    async def app(scope: Any, _receive: object, _send: object) -> None:  # noqa: ANN401
        seen.append(scope["type"])

    await RateLimitMiddleware(app, client)({"type": "lifespan"}, None, None)
    assert seen == ["lifespan"]
    assert scripted.attempts == []


async def test_an_allowed_websocket_gets_headers(client: AsyncRateLimitClient, scripted: ScriptedServer) -> None:
    """A websocket is checked as GET, and its acceptance has the headers."""
    scripted.script([WITHIN])
    (accepted,) = await handshake(RateLimitMiddleware(hello, client), "/live", _KEY, {})
    assert scripted.attempts[0].resource == "GET /live"
    assert dict(accepted["headers"])[b"ratelimit"] == b'"burst";r=19;t=1'


async def test_a_denied_websocket_gets_an_http_response(client: AsyncRateLimitClient, scripted: ScriptedServer) -> None:
    """Where the server supports HTTP responses to a handshake, a denial is one."""
    scripted.script([_OVER])
    start, body = await handshake(RateLimitMiddleware(hello, client), "/live", _KEY, {"websocket.http.response": {}})
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 429)
    assert dict(start["headers"])[b"retry-after"] == b"1"
    assert b"quota-exceeded" in body["body"]


async def test_a_denied_websocket_is_closed_otherwise(client: AsyncRateLimitClient, scripted: ScriptedServer) -> None:
    """Where it does not, the handshake is closed with the text of the denial."""
    scripted.script([_OVER])
    (closed,) = await handshake(RateLimitMiddleware(hello, client), "/live", _KEY, {})
    assert closed == {
        "type": "websocket.close",
        "code": 1008,
        "reason": 'Over the limit "burst"; try again in 1 s.',
    }
