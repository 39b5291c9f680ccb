"""The middleware for ASGI applications (Starlette, FastAPI, Litestar, Django, ...)."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ._guard import Reading, guarded_async
from ._scope import Scope, cost_of_one, method_and_path, never, x_api_key
from .aio_client import AsyncRateLimitClient
from .headers import HeaderStyle, limit_headers
from .refusal import Refusal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_POLICY_VIOLATION = 1008  # RFC 6455's close code


class RateLimitMiddleware:
    """Checks each HTTP request and websocket of APP with CLIENT.

    An allowed request proceeds, and its response gets the headers; any other gets the response of a `Refusal`, with a
    body of type `application/problem+json`. A RateLimitError that is not the caller's is raised, so that the server
    responds with 500.

    KEY returns a request's API key (a request without one is refused), RESOURCE what it calls (`method_and_route` names
    the route in place of the path), COST how many tokens it takes: 0 to 9,007,199,254. A request for which SKIP is true
    proceeds without a check, such as one for which `is_preflight` is. HEADER_STYLE is the style of the headers.
    """

    def __init__(  # noqa: PLR0913  each is independent of the others
        self,
        app: App,
        client: AsyncRateLimitClient,
        *,
        key: Callable[[Scope], str] = x_api_key,
        resource: Callable[[Scope], str] = method_and_path,
        cost: Callable[[Scope], int] = cost_of_one,
        skip: Callable[[Scope], bool] = never,
        header_style: HeaderStyle = HeaderStyle.IETF,
    ) -> None:
        self._app = app
        self._client = client
        self._read = Reading(key, resource, cost)
        self._skip = skip
        self._header_style = header_style

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI defines it."""
        if scope["type"] not in {"http", "websocket"} or self._skip(scope):
            await self._app(scope, receive, send)
            return
        checked = await guarded_async(self._client, self._read, scope)
        if isinstance(checked, Refusal):
            await _refuse(scope, send, checked, _encoded(checked.headers(self._header_style)))
            return

        added = _encoded(limit_headers(checked, self._header_style))

        async def send_with_headers(message: Message) -> None:
            if message["type"] in {"http.response.start", "websocket.accept"}:
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


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
    await send({"type": f"{prefix}.response.start", "status": int(refusal.http_status), "headers": headers})
    await send({"type": f"{prefix}.response.body", "body": body})


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
