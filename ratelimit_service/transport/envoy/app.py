"""The application that Envoy's embedded Python calls: the methods that are called often."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import structlog

from ratelimit_service.api.authentication import Admission
from ratelimit_service.api.envoy_ext_authz.described import describe_authorization
from ratelimit_service.api.envoy_ext_authz.service import EnvoyAuthorizationService
from ratelimit_service.api.envoy_rlqs.service import EnvoyQuotaService
from ratelimit_service.api.envoy_rls.described import describe_request
from ratelimit_service.api.envoy_rls.service import EnvoyRateLimitService
from ratelimit_service.api.messages import not_served
from ratelimit_service.api.overload.denial import OVER_LIMIT, SERVICE_UNAVAILABLE
from ratelimit_service.api.overload.heavy import HEAVY_BYTES
from ratelimit_service.api.rate_limit.described import describe_check, describe_checks
from ratelimit_service.api.rate_limit.reader import read_extension, read_grant, read_settlement
from ratelimit_service.api.rate_limit.service import DecideGroup, RateLimitService
from ratelimit_service.api.rate_limit.streams import check_streams, grant_streams
from ratelimit_service.api.recording import Describe, Recorder, nothing_described
from ratelimit_service.errors import StartupError
from ratelimit_service.transport.envoy.admission import Bounds, Count, Method
from ratelimit_service.transport.envoy.crossing import taking_calls
from ratelimit_service.transport.envoy.direct import Direct, Methods
from ratelimit_service.transport.envoy.drain import Drain
from ratelimit_service.transport.envoy.framing import App, Receive, Scope, Send
from ratelimit_service.transport.envoy.paths import (
    AUTHORIZE,
    BATCH,
    CHECK,
    EXTEND,
    GRANT,
    QUOTAS,
    SETTLE,
    SHOULD_RATE_LIMIT,
    STREAM,
    STREAM_GRANTS,
)
from ratelimit_service.transport.envoy.quota_stream import quota_stream
from ratelimit_service.transport.envoy.recorded import recorded_unary
from ratelimit_service.transport.envoy.responses import send_error
from ratelimit_service.transport.envoy.stream import stream
from ratelimit_service.transport.envoy.unary import Call, unary

Request = TypeVar("Request")


def envoy_methods(  # noqa: PLR0913, PLR0917  what they are made of
    rate_limits: EnvoyRateLimitService,
    authorization: EnvoyAuthorizationService,
    quotas: EnvoyQuotaService,
    admission: Admission,
    count: Count,
    drain: Drain,
    bounds: Bounds,
    *,
    recorder: Recorder | None = None,
) -> Methods:
    """The methods of Envoy's own protocols. RECORDER records sampled calls; None: no call is sampled."""
    denied = bounds.overload.fallback(rate_limits.fallback, OVER_LIMIT)
    unavailable = bounds.overload.fallback(authorization.fallback, SERVICE_UNAVAILABLE)
    rls = Method(SHOULD_RATE_LIMIT, admission, count, bounds, denied, HEAVY_BYTES)
    ext_authz = Method(AUTHORIZE, admission, count, bounds, unavailable)
    apps = {
        SHOULD_RATE_LIMIT: _unary(rls, rate_limits.read, rate_limits.should_rate_limit, describe_request, recorder),
        AUTHORIZE: _unary(ext_authz, authorization.read, authorization.check, describe_authorization, recorder),
        QUOTAS: quota_stream(Method(QUOTAS, admission, count, bounds), quotas, drain),
    }
    if recorder is not None:  # each call may be sampled
        return Methods(apps)
    return Methods(apps, {SHOULD_RATE_LIMIT: Direct(rls, rate_limits.find, rate_limits.should_rate_limit).begin})


def decision_methods(  # noqa: PLR0913  what they are made of
    service: RateLimitService,
    admission: Admission,
    count: Count,
    drain: Drain,
    bounds: Bounds,
    *,
    recorder: Recorder | None = None,
) -> Methods:
    """The methods of RateLimitService. RECORDER records sampled calls; None: no call is sampled."""
    read, streams = service.reader, service.streams
    check, settle, extend = (Method(path, admission, count, bounds) for path in (CHECK, SETTLE, EXTEND))
    batch = Method(BATCH, admission, count, bounds, heavy_from=HEAVY_BYTES)
    grant = Method(GRANT, admission, count, bounds, heavy_from=HEAVY_BYTES)
    decide: DecideGroup = service.decide_group
    if recorder is not None:
        decide = recorder.groups(STREAM, decide, describe_checks)
    apps = {
        CHECK: _unary(check, read.check, service.check_limit, describe_check, recorder),
        BATCH: _unary(batch, read.batch, service.batch_check_limit, describe_checks, recorder),
        SETTLE: _unary(settle, read_settlement, service.settle_limit, nothing_described, recorder),
        EXTEND: _unary(extend, read_extension, service.extend_hold, nothing_described, recorder),
        GRANT: _unary(grant, read_grant, service.grant, nothing_described, recorder),
        STREAM: stream(Method(STREAM, admission, count, bounds), check_streams(service, decide), streams, drain),
        STREAM_GRANTS: stream(
            Method(STREAM_GRANTS, admission, count, bounds), grant_streams(service, recorder), streams, drain
        ),
    }
    if recorder is not None:  # each call may be sampled
        return Methods(apps)
    return Methods(apps, {CHECK: Direct(check, read.find, service.check_limit).begin})


def _unary(
    method: Method,
    read: Callable[[bytes], Request],
    call: Call[Request],
    describe: Describe,
    recorder: Recorder | None,
) -> App:
    if recorder is None:
        return unary(method, read, call)
    return recorded_unary(method, read, call, describe, recorder)


OpenMethods = Callable[[], AbstractAsyncContextManager[Methods]]
"""Opens everything that the methods need, and yields them."""

_log = structlog.stdlib.get_logger(__name__)


class EmbeddedApp:
    """An ASGI application. Everything is opened in its lifespan, before Envoy takes the first connection."""

    _asgi_single_callable = True
    """Declares ASGI 3: servers assume ASGI 2 for a callable that is not a coroutine function."""

    def __init__(self, open_methods: OpenMethods) -> None:
        self._open_methods = open_methods
        self._methods: Mapping[str, App] = {}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Respond to one request, or run the lifespan protocol."""
        if scope["type"] == "lifespan":
            return self._lifespan(receive, send)
        return self._methods.get(scope["path"], _not_served)(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with self._open_methods() as methods:
                self._methods = methods.apps
                with taking_calls(methods):
                    await send({"type": "lifespan.startup.complete"})
                    await receive()
        except StartupError as error:
            _log.error("cannot start", error=str(error))
            await send({"type": "lifespan.startup.failed", "message": str(error)})
        else:
            await send({"type": "lifespan.shutdown.complete"})


async def _not_served(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 the signature of every method
    method = scope["path"]
    await send_error(send, not_served(method), method)
