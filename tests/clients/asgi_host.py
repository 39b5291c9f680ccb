"""The server's side of ASGI for one request or handshake at a time, as the ASGI specification says it."""

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from ratelimit_client.asgi import App, Message, Receive, Scope, Send


@dataclass
class Answer:
    """What came back."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def problem(self) -> dict[str, Any]:
        """The body as JSON."""
        told: dict[str, Any] = json.loads(self.body)
        return told


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers everything with 200 and `hello`, and accepts every websocket."""
    del receive
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def request(app: App, method: str, path: str, headers: dict[str, str]) -> Answer:
    """Send one HTTP request. What APP raises becomes 500, as in every server."""
    answer = Answer()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            answer.body += message["body"]

    try:
        await app({**_scope("http", path, headers), "method": method}, _no_body, send)
    except Exception:  # noqa: BLE001  a server answers 500 to whatever is raised
        return Answer(500)
    return answer


async def handshake(app: App, path: str, headers: dict[str, str], extensions: dict[str, Any]) -> list[Message]:
    """Ask for one websocket. Returns what APP said of it."""
    output: list[Message] = []

    async def send(message: Message) -> None:
        output.append(message)

    await app({**_scope("websocket", path, headers), "extensions": extensions}, _no_body, send)
    return output


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
