"""ASGI middleware (Starlette, FastAPI, Litestar, Django, ...): no request reaches the application unasked."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

from .aio import AsyncRateLimitClient
from .errors import InvalidCheck, not_text
from .headers import HeaderStyle, limit_headers
from .refusal import Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_NOT_TEXT = "\N{REPLACEMENT CHARACTER}"
_POLICY_VIOLATION = 1008  # RFC 6455's close code


def header_key(name: str) -> Callable[[Scope], str]:
    """Takes the API key from the header NAME. Empty when there is none."""
    wanted = name.lower().encode("latin-1")

    def key_of(scope: Scope) -> str:
        found: bytes = next((value for header, value in scope["headers"] if header.lower() == wanted), b"")
        return found.decode("latin-1")

    return key_of


x_api_key = header_key("x-api-key")
"""The API key in the header `x-api-key`."""


def method_and_path(scope: Scope) -> str:
    """`GET /v1/orders`: the method and the decoded path without the query. A websocket counts as GET.

    Raises InvalidCheck for a path that is not valid UTF-8.
    """
    if _NOT_TEXT in scope["path"] and not _is_text(scope.get("raw_path")):
        raise not_text("resource")
    return f"{scope.get('method', 'GET')} {scope['path']}"


def cost_of_one(_scope: Scope) -> int:
    """Every request costs one token."""
    return 1


class RateLimitMiddleware:
    """Asks CLIENT about each HTTP request and websocket, and answers 401, 403, 429 or 503 to those that may not go on.

    KEY, RESOURCE and COST say what to ask about a request; STYLE how to tell callers their limits. A SetupError of the
    client is raised, so that the server answers 500: a wrong token must not let requests pass.
    """

    def __init__(  # noqa: PLR0913  each is independent of the others
        self,
        app: App,
        client: AsyncRateLimitClient,
        *,
        key: Callable[[Scope], str] = x_api_key,
        resource: Callable[[Scope], str] = method_and_path,
        cost: Callable[[Scope], int] = cost_of_one,
        style: HeaderStyle = HeaderStyle.IETF,
    ) -> None:
        self._app = app
        self._client = client
        self._key = key
        self._resource = resource
        self._cost = cost
        self._style = style

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection as ASGI asks."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        asked = await self._ask(scope)
        if isinstance(asked, Refusal):
            await _refuse(scope, send, asked, _encoded(asked.headers(self._style)))
            return

        async def send_with_limits(message: Message) -> None:
            if message["type"] in {"http.response.start", "websocket.accept"}:
                message = {**message, "headers": [*message.get("headers", ()), *_encoded(asked)]}
            await send(message)

        await self._app(scope, receive, send_with_limits)

    async def _ask(self, scope: Scope) -> dict[str, str] | Refusal:
        """The headers for a request that may go on, or the answer for one that may not."""
        key = self._key(scope)
        if not key:
            return Refusal.of_missing_key()
        try:
            decision = await self._client.check(key, self._resource(scope), cost=self._cost(scope))
        except InvalidCheck as error:
            return Refusal.of_invalid_check(error)
        return limit_headers(decision, self._style) if decision.allowed else Refusal.of_decision(decision)


def _is_text(raw_path: bytes | None) -> bool:
    """Whether a path that was decoded to U+FFFD says so itself. Servers put it in place of bytes that are no text."""
    if raw_path is None:
        return False
    try:
        unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        return False
    return True


async def _refuse(scope: Scope, send: Send, refusal: Refusal, headers: list[tuple[bytes, bytes]]) -> None:
    prefix = scope["type"]
    if prefix == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": refusal.detail})
            return
        prefix = "websocket.http"
    body = json.dumps(refusal.problem()).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    await send({"type": f"{prefix}.response.start", "status": int(refusal.status), "headers": headers})
    await send({"type": f"{prefix}.response.body", "body": body})


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
