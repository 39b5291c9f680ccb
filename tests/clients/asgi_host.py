"""The server's side of ASGI for one request or handshake at a time, as the ASGI specification defines it."""

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from ratelimit_client.middleware import App, Message, Receive, Scope, Send


@dataclass
class Response:
    """An HTTP response."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def problem(self) -> dict[str, Any]:
        """The body as JSON."""
        problem: dict[str, Any] = json.loads(self.body)
        return problem


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that responds to everything with 200 and `hello`, and accepts every websocket."""
    del receive
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def request(app: App, method: str, path: str, headers: dict[str, str]) -> Response:
    """Send one HTTP request. What APP raises becomes 500, as in every server."""
    response = Response()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            response.status = message["status"]
            response.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            response.body += message["body"]

    try:
        await app({**_scope("http", path, headers), "method": method}, _no_body, send)
    except Exception:  # noqa: BLE001  a server responds with 500 to every exception
        return Response(500)
    return response


async def handshake(app: App, path: str, headers: dict[str, str], extensions: dict[str, Any]) -> list[Message]:
    """Open one websocket. Returns the messages of APP."""
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    await app({**_scope("websocket", path, headers), "extensions": extensions}, _no_body, send)
    return messages


def _scope(kind: str, path: str, headers: dict[str, str]) -> Scope:
    raw, _, query = path.partition("?")
    return {
        "type": kind,
        "path": unquote(raw),
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }


async def _no_body() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}
