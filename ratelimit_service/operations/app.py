"""The ASGI applications of the operations port and of a port for the console alone."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ratelimit_service.operations.readiness import Readiness

CONSOLE: str = "/console"

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
_TWO_LENGTHS = "A request has Content-Length or Transfer-Encoding, not both.\n"
_OFF = "The console is off on this port: beyond loopback it needs TLS.\n"


def operations_app(
    scrape: Callable[[], Awaitable[bytes]],
    readiness: Readiness,
    status: Callable[[], Awaitable[Mapping[str, Any]]],
    *,
    console: ASGIApp | None,
    console_needs_tls: bool,
) -> ASGIApp:
    """`/metrics`, `/healthz`, `/readyz`, `/status` and, unless it is None, the console; 404 for anything else.

    `console_needs_tls`: whether the console is served only to those who connect by TLS.
    """

    async def metrics(_request: Request) -> Response:
        return Response(await scrape(), media_type=_METRICS_TYPE, headers=_HEADERS)

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n", headers=_HEADERS)

    async def readyz(_request: Request) -> Response:
        report = readiness.report()
        return PlainTextResponse(f"{report.text}\n", 200 if report.ready else 503, headers=_HEADERS)

    async def report(_request: Request) -> Response:
        return JSONResponse(await status(), headers=_HEADERS)

    routes = [
        Route("/metrics", metrics),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/status", report),
    ]
    return _app([*routes, *_console_routes(console, needs_tls=console_needs_tls)])


def console_app(console: ASGIApp | None, *, needs_tls: bool) -> ASGIApp:
    """The console under the same paths as on the operations port, and 404 for anything else."""
    return _app(_console_routes(console, needs_tls=needs_tls))


def _app(routes: list[BaseRoute]) -> ASGIApp:
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False  # it would redirect to whatever host the request names
    return _UnreadBodies(app)


def _console_routes(console: ASGIApp | None, *, needs_tls: bool) -> list[BaseRoute]:
    if console is None:
        return []

    enter = RedirectResponse(f"{CONSOLE}/", 307)
    return [
        Route(CONSOLE, _TlsOnly(enter) if needs_tls else enter),
        Mount(CONSOLE, _TlsOnly(console) if needs_tls else console),
    ]


class _TlsOnly:
    """Serves an application to those who connect by TLS, and to others 404."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app if scope["scheme"] == "https" else PlainTextResponse(_OFF, 404, headers=_HEADERS)
        await app(scope, receive, send)


class _UnreadBodies:
    """Closes the connection after the answer to a request with a body, but for the console's: it is never read.

    A body with both lengths is refused: a proxy before us may take the other one, and what follows as a request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _has_two_lengths(scope):
            answer = PlainTextResponse(_TWO_LENGTHS, 400, headers={**_HEADERS, "connection": "close"})
            await answer(scope, receive, send)
            return
        if scope["path"].startswith(f"{CONSOLE}/") or not _has_body(scope):
            await self._app(scope, receive, send)
            return

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        await self._app(scope, receive, closing)


def _has_two_lengths(scope: Scope) -> bool:
    names = {name for name, _ in scope["headers"]}
    return {b"transfer-encoding", b"content-length"} <= names


def _has_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
