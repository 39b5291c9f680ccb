"""The ASGI middleware."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from ratelimit_client import AsyncRateLimitClient, HeaderStyle, RateLimitMiddleware, header_key

from clients.asgi_host import Answer, handshake, hello, request
from clients.case_run import CaseRun
from clients.contract import Case, cases
from clients.scripted_server import ScriptedServer

_OVER: dict[str, Any] = {
    "answer": {
        "reason": "OVER_LIMIT",
        "limit": "burst",
        "retry_after": "0.5s",
        "limits": [{"name": "burst", "limit": "20", "retry_after": "0.5s", "would_deny": True, "window": "2s"}],
    }
}
_WITHIN: dict[str, Any] = {
    "answer": {
        "allowed": True,
        "reason": "WITHIN_LIMIT",
        "limit": "burst",
        "limits": [{"name": "burst", "limit": "20", "remaining": "19", "reset_after": "0.1s", "window": "2s"}],
    }
}
_KEY = {"x-api-key": "rlk_test_a"}


@pytest_asyncio.fixture
async def client(scripted: ScriptedServer) -> AsyncIterator[AsyncRateLimitClient]:
    """A client of the scripted server."""
    async with AsyncRateLimitClient(scripted.target, deadline=10, denial_cache_size=0) as connected:
        await connected.wait_until_connected()
        yield connected


@cases("middleware")
async def test_the_middleware_keeps_the_contract(case: Case, scripted: ScriptedServer) -> None:
    """Each request of each case is answered, and asked about, as the contract says."""
    run = CaseRun(case, scripted)
    async with AsyncRateLimitClient(scripted.target, **run.options) as client:
        await client.wait_until_connected()
        app = RateLimitMiddleware(hello, client)
        for step in case["steps"]:
            if run.advances(step):
                continue
            run.script(step)
            answer = await request(app, **step["request"])
            await asyncio.to_thread(run.saw, step, None, client.failures, 0)
            _check(step["sees"]["response"], answer)


def _check(expected: dict[str, Any], answer: Answer) -> None:
    assert answer.status == expected["status"]
    for name, value in expected.get("headers", {}).items():
        assert answer.headers.get(name) == value
    if "problem" in expected:
        assert answer.problem == expected["problem"]
        assert answer.headers["content-length"] == str(len(answer.body))
    if "body" in expected:
        assert answer.body.decode() == expected["body"]


async def test_what_to_ask_is_replaceable(client: AsyncRateLimitClient, scripted: ScriptedServer) -> None:
    """Key, resource, cost and style are taken from what the application gave."""
    app = RateLimitMiddleware(
        hello,
        client,
        key=header_key("X-Customer-Key"),
        resource=lambda scope: f"orders.{scope['method'].lower()}",
        cost=lambda scope: len(scope["path"]),
        style=HeaderStyle.X_RATELIMIT,
    )
    scripted.script([_WITHIN])
    answer = await request(app, "POST", "/1234", {"x-customer-key": "rlk_test_b"})
    (asked,) = scripted.attempts
    assert (asked.api_key, asked.resource, asked.cost) == ("rlk_test_b", "orders.post", 5)
    assert answer.headers["x-ratelimit-remaining"] == "19"
    assert answer.headers["content-type"] == "text/plain"
    assert "ratelimit" not in answer.headers


@pytest.mark.parametrize("path", ["/" + b"\xff".decode(errors=how) for how in ("replace", "surrogateescape")])
async def test_a_path_that_may_be_no_text_is_refused(
    path: str, client: AsyncRateLimitClient, scripted: ScriptedServer
) -> None:
    """Where the server gives no raw path to tell by, or keeps stray bytes as surrogates, the request does not pass."""
    output: list[dict[str, Any]] = []

    async def send(message: Any) -> None:  # noqa: ANN401
        output.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"x-api-key", b"rlk_test_a")]}
    await RateLimitMiddleware(hello, client)(scope, None, send)
    assert output[0]["status"] == 400
    assert b"resource: is not valid UTF-8" in output[1]["body"]
    assert scripted.attempts == []


async def test_lifespan_is_none_of_our_business(client: AsyncRateLimitClient, scripted: ScriptedServer) -> None:
    """A scope that is no request goes to the application as it came, and nothing is asked."""
    seen: list[str] = []

    async def app(scope: Any, _receive: object, _send: object) -> None:  # noqa: ANN401
        seen.append(scope["type"])

    await RateLimitMiddleware(app, client)({"type": "lifespan"}, None, None)
    assert seen == ["lifespan"]
    assert scripted.attempts == []


async def test_an_allowed_websocket_is_told_its_limits(client: AsyncRateLimitClient, scripted: ScriptedServer) -> None:
    """A websocket is asked about as GET, and its acceptance carries the headers."""
    scripted.script([_WITHIN])
    (accepted,) = await handshake(RateLimitMiddleware(hello, client), "/live", _KEY, {})
    assert scripted.attempts[0].resource == "GET /live"
    assert dict(accepted["headers"])[b"ratelimit"] == b'"burst";r=19;t=1'


async def test_a_denied_websocket_is_answered_in_http(client: AsyncRateLimitClient, scripted: ScriptedServer) -> None:
    """Where the server can answer a handshake with a response, that is what a denial is."""
    scripted.script([_OVER])
    start, body = await handshake(RateLimitMiddleware(hello, client), "/live", _KEY, {"websocket.http.response": {}})
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 429)
    assert dict(start["headers"])[b"retry-after"] == b"1"
    assert b"quota-exceeded" in body["body"]


async def test_a_denied_websocket_is_closed_elsewhere(client: AsyncRateLimitClient, scripted: ScriptedServer) -> None:
    """Where it cannot, the handshake is closed with the text of the denial."""
    scripted.script([_OVER])
    (closed,) = await handshake(RateLimitMiddleware(hello, client), "/live", _KEY, {})
    assert closed == {
        "type": "websocket.close",
        "code": 1008,
        "reason": 'Over the limit "burst"; try again in 1 s.',
    }
