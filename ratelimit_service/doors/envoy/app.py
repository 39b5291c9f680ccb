"""The application that Envoy's embedded Python calls: the methods that come often."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager

import structlog

from ratelimit_service.doors.envoy.answers import refuse
from ratelimit_service.doors.envoy.asgi import App, Receive, Scope, Send
from ratelimit_service.errors import Unimplemented
from ratelimit_service.startup import StartupFault

OpenMethods = Callable[[], AbstractAsyncContextManager[Mapping[str, App]]]
"""Opens everything that the methods need, and gives them by path (`/ratelimit.v1.RateLimitService/CheckLimit`)."""

_log = structlog.stdlib.get_logger(__name__)


class EmbeddedApp:
    """An ASGI application. Everything is opened in its lifespan, before Envoy takes the first connection."""

    _asgi_single_callable = True
    """Says that this is ASGI 3: hosts take a callable that is no coroutine function for ASGI 2."""

    def __init__(self, open_methods: OpenMethods) -> None:
        self._open_methods = open_methods
        self._methods: Mapping[str, App] = {}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer one request, or live one life."""
        if scope["type"] == "lifespan":
            return self._live(receive, send)
        return self._methods.get(scope["path"], _not_served)(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with self._open_methods() as self._methods:
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except StartupFault as fault:
            _log.error("cannot start", fault=str(fault))
            await send({"type": "lifespan.startup.failed", "message": str(fault)})
        else:
            await send({"type": "lifespan.shutdown.complete"})


async def _not_served(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 the shape of every method
    method = scope["path"]
    fault = Unimplemented(
        f"{method} is not served here; list what is with the reflection service",
        reason="NOT_SERVED",
        metadata={"method": method[:256]},
    )
    await refuse(send, fault, method)
