"""An application that answers wrongly, embedded in Envoy: the last part of the method says how."""

from collections.abc import Awaitable
from contextlib import suppress

from ratelimit_service.transport.envoy.crossing import taking_calls
from ratelimit_service.transport.envoy.direct import Methods
from ratelimit_service.transport.envoy.framing import Receive, Scope, Send, frame
from ratelimit_service.transport.envoy.paths import AUTHORIZE, CHECK, EXTEND, GRANT, SETTLE, SHOULD_RATE_LIMIT
from ratelimit_service.transport.envoy.responses import send_response


async def raise_error(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """End with an error."""
    raise RuntimeError


def raise_at_once(_scope: Scope, _receive: Receive, _send: Send) -> Awaitable[None]:
    """Fail before anything can be awaited."""
    raise RuntimeError


async def send_nothing(_scope: Scope, receive: Receive, _send: Send) -> None:
    """End without a response."""
    await receive()


async def send_half(_scope: Scope, _receive: Receive, send: Send) -> None:
    """End within a response, after an event that cannot follow the first."""
    await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
    try:
        await send({"type": "http.response.start", "status": 200, "headers": []})
    except ValueError:
        return
    await send({"type": "http.response.trailers", "headers": []})


async def send_wrong_status(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Go on after a status that is none, with a body: the start is to be repeated."""
    with suppress(ValueError):
        await send({"type": "http.response.start", "status": 99, "headers": [(b"a", b"b")]})
    await send({"type": "http.response.body", "body": b"x", "more_body": False})


async def echo(_scope: Scope, receive: Receive, send: Send) -> None:
    """Send what has come, and what comes next: nothing."""
    first, second = await receive(), await receive()
    await send_response(send, frame(first["body"][5:] + second["type"].encode()))


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Run the lifespan protocol, or answer a call that pyvoy has passed."""
    if scope["type"] != "lifespan":
        while scope["path"] != CHECK and (await receive())["more_body"]:
            pass
        await send_response(send, frame(b"pyvoy"))
        return
    await receive()
    methods = {
        CHECK: raise_error,
        EXTEND: send_nothing,
        SETTLE: send_half,
        GRANT: send_wrong_status,
        AUTHORIZE: raise_at_once,
        SHOULD_RATE_LIMIT: echo,
    }
    with taking_calls(Methods(methods)):
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})
