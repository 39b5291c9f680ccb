"""The server of this transport: every service on one `grpc.aio` port."""

from collections.abc import Mapping
from time import monotonic
from typing import Final, Protocol

import grpc
import structlog
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ratelimit_service.api.authentication import Authenticator, decision_admission
from ratelimit_service.api.envoy_ext_authz.service import EnvoyAuthorizationService
from ratelimit_service.api.envoy_rls.service import EnvoyRateLimitService
from ratelimit_service.api.key_admin.service import KeyAdminService
from ratelimit_service.api.messages import MAX_STREAMS
from ratelimit_service.api.overload.control import OverloadControl
from ratelimit_service.api.rate_limit.service import RateLimitService
from ratelimit_service.errors import StartupError
from ratelimit_service.metrics import Counts
from ratelimit_service.settings import Settings
from ratelimit_service.transport.grpcio.context import present_direct, present_proxied
from ratelimit_service.transport.grpcio.health import Health, Probe
from ratelimit_service.transport.grpcio.methods import (
    ENVOY_AUTHORIZATION_SERVICE,
    ENVOY_RATE_LIMIT_SERVICE,
    KEY_ADMIN_SERVICE,
    RATE_LIMIT_SERVICE,
    Methods,
    admin_methods,
    decision_interceptor,
    decision_methods,
    envoy_methods,
)
from ratelimit_service.transport.grpcio.shutdown import Notify, close_gracefully, send_goaway, send_nothing
from ratelimit_service.transport.grpcio.tls import certificates

_MAX_RECEIVED: Final = 4 * 1024 * 1024
"""Bytes of a message that the library accepts. Above it the library itself returns RESOURCE_EXHAUSTED, without our
details; sizes between our own bound and this one are refused by us, with them."""

_MAX_GRACE: Final = 1.0
"""Seconds for which a draining server waits for its clients to disconnect."""

_log = structlog.stdlib.get_logger(__name__)


class Planes(Protocol):
    """What the server serves."""

    @property
    def rate_limit(self) -> RateLimitService:
        """The methods of RateLimitService."""
        ...

    @property
    def envoy_rate_limit(self) -> EnvoyRateLimitService:
        """The method of Envoy's rate limit service."""
        ...

    @property
    def envoy_authorization(self) -> EnvoyAuthorizationService:
        """The method of Envoy's external authorization."""
        ...

    @property
    def key_admin(self) -> KeyAdminService:
        """The methods of KeyAdminService."""
        ...

    @property
    def authenticator(self) -> Authenticator:
        """Identifies the callers."""
        ...

    @property
    def overload(self) -> OverloadControl:
        """Decides which calls begin."""
        ...

    @property
    def counts(self) -> Counts:
        """Counts calls."""
        ...

    @property
    def probes(self) -> Mapping[str, Probe]:
        """Checks of the components that the health service reports, by name."""
        ...


class GrpcServer:
    """Serves RateLimitService, KeyAdminService, health and reflection on `settings.listen`.

    Several processes may open the same port (SO_REUSEPORT); the kernel spreads connections over them.
    """

    def __init__(self, settings: Settings, planes: Planes, *, behind_envoy: bool = False) -> None:
        """BEHIND_ENVOY: whether all calls come through our Envoy, which then says who the peers are."""
        self._settings = settings
        present = present_proxied if behind_envoy else present_direct
        self._health = Health(planes.probes)
        calls = planes.counts.calls
        admission = decision_admission(planes.authenticator, protect=settings.checks_protected)
        intercept = decision_interceptor(admission, calls, present, planes.overload)
        self._handlers = (
            decision_methods(planes.rate_limit, admission, intercept)
            | envoy_methods(planes.envoy_rate_limit, planes.envoy_authorization, intercept, planes.overload)
            | admin_methods(planes.key_admin, planes.authenticator, calls, present)
        )
        self._server: grpc.aio.Server | None = None
        self._notify: Notify = send_goaway
        self.port = 0
        """The port that is open, 0 before `start` and on a unix socket."""

    async def start(self) -> None:
        """Open the port and serve. Raises StartupError if it cannot be opened or TLS is not set up right."""
        server = grpc.aio.server(options=_options(self._settings))
        self.port = self._open(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, server)
        ours = (KEY_ADMIN_SERVICE, RATE_LIMIT_SERVICE, ENVOY_RATE_LIMIT_SERVICE, ENVOY_AUTHORIZATION_SERVICE)
        reflection.enable_server_reflection((*ours, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        server.add_generic_rpc_handlers((Methods(self._handlers),))
        await self._health.start()  # last, because nothing can fail after it
        await server.start()
        self._server = server

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 a bound for the calls, not for this method
        """Stop: report it to health watchers, close connections gracefully, and give calls at most TIMEOUT seconds.

        Calls that come before their client has disconnected are served, for at most a second and half of TIMEOUT.
        """
        await self._health.drain()
        if self._server is None:
            return
        began = monotonic()
        left = await close_gracefully(self.port, min(timeout / 2, _MAX_GRACE), self._notify) if self.port else 0
        await self._server.stop(max(timeout - (monotonic() - began), 0))
        self._server = None
        _log.info("drained", seconds=round(monotonic() - began, 3), connections_left=left)

    async def announce_drain(self) -> None:
        """Report to health watchers that this server is about to end, and keep serving."""
        await self._health.drain()

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 a bound for the calls, not for this method
        """Stop without a report to health watchers: a proxy connects them to a successor that serves already.

        Calls under way get at most TIMEOUT seconds to end.
        """
        await self._health.stop()
        if self._server is not None:
            await self._server.stop(timeout)
            self._server = None

    def _open(self, server: grpc.aio.Server) -> int:
        listen = self._settings.listen
        found = certificates(self._settings)
        self._notify = send_goaway if found is None else send_nothing
        try:
            if found is None:
                port = server.add_insecure_port(listen)
            else:
                port = server.add_secure_port(listen, found.credentials())
        except RuntimeError as error:
            raise StartupError(
                f"the gRPC port cannot be opened on {listen!r}: {error}; set RATELIMIT_LISTEN to one that is free"
            ) from error
        return 0 if listen.startswith("unix:") else port


def _options(settings: Settings) -> tuple[tuple[str, int], ...]:
    """The library's options. It varies the connection age by a tenth either way by itself."""
    return (
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", _MAX_RECEIVED),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        ("grpc.compression_enabled_algorithms_bitset", 1),  # identity alone: a compressed message is not served
        ("grpc.max_connection_age_ms", round(settings.max_connection_age * 1000)),
        ("grpc.max_connection_age_grace_ms", round(max(settings.drain_timeout, 1) * 1000)),
        ("grpc.keepalive_time_ms", 60_000),  # detects peers that vanished
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # lets clients do the same, six times as often
    )
