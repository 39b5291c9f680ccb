"""The application that Envoy's embedded Python calls: the methods that come often."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final

import structlog

from ratelimit_service._gen.envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from ratelimit_service.api.envoy_ext_authz.service import EnvoyAuthorizationService
from ratelimit_service.api.envoy_rls.service import EnvoyRateLimitService
from ratelimit_service.api.messages import reading
from ratelimit_service.api.rate_limit.service import RateLimitService
from ratelimit_service.errors import StartupError, Unimplemented
from ratelimit_service.transport.envoy.drain import Drain
from ratelimit_service.transport.envoy.framing import App, Receive, Scope, Send
from ratelimit_service.transport.envoy.responses import refuse
from ratelimit_service.transport.envoy.stream import stream
from ratelimit_service.transport.envoy.unary import Admission, Count, Edge, unary

CHECK: Final = "/ratelimit.v1.RateLimitService/CheckLimit"
BATCH: Final = "/ratelimit.v1.RateLimitService/BatchCheckLimit"
STREAM: Final = "/ratelimit.v1.RateLimitService/StreamCheckLimit"

SHOULD_RATE_LIMIT: Final = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
AUTHORIZE: Final = "/envoy.service.auth.v3.Authorization/Check"

PATHS: Final = (CHECK, SHOULD_RATE_LIMIT, AUTHORIZE, BATCH, STREAM)
"""In the order in which Envoy tries them: first those that carry one decision each."""


def proxy_methods(
    rate_limits: EnvoyRateLimitService, authorization: EnvoyAuthorizationService, admission: Admission, count: Count
) -> dict[str, App]:
    """The methods of Envoy's own protocols, by path."""
    return {
        SHOULD_RATE_LIMIT: unary(
            rate_limits.read, rate_limits.should_rate_limit, Edge(SHOULD_RATE_LIMIT, admission, count)
        ),
        AUTHORIZE: unary(reading(CheckRequest), authorization.check, Edge(AUTHORIZE, admission, count)),
    }


def decision_methods(endpoint: RateLimitService, admission: Admission, count: Count, drain: Drain) -> dict[str, App]:
    """The methods of RateLimitService, by path."""
    read = endpoint.reader
    return {
        CHECK: unary(read.check, endpoint.check_limit, Edge(CHECK, admission, count)),
        BATCH: unary(read.batch, endpoint.batch_check_limit, Edge(BATCH, admission, count)),
        STREAM: stream(read.stream, endpoint.answer_group, Edge(STREAM, admission, count), drain),
    }


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
        except StartupError as fault:
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
