"""The server of this transport: every service on one `grpc.aio` port."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol

import grpc
import structlog

from ratelimit_service.api.authentication import Authenticator, decision_admission
from ratelimit_service.api.envoy_ext_authz.service import EnvoyAuthorizationService
from ratelimit_service.api.envoy_rlqs.service import EnvoyQuotaService
from ratelimit_service.api.envoy_rls.service import EnvoyRateLimitService
from ratelimit_service.api.key_admin.service import KeyAdminService
from ratelimit_service.api.messages import ON_ADMIN_PORT, ON_CONTROL_PLANE, ON_DECISION_PLANE
from ratelimit_service.api.overload.control import OverloadControl
from ratelimit_service.api.rate_limit.service import RateLimitService
from ratelimit_service.api.recording import Recorder
from ratelimit_service.errors import StartupError
from ratelimit_service.metrics import Counts
from ratelimit_service.settings import Settings
from ratelimit_service.transport.file_descriptors import max_connections
from ratelimit_service.transport.grpcio.context import direct, proxied
from ratelimit_service.transport.grpcio.health import Health, Probe
from ratelimit_service.transport.grpcio.methods import (
    ADMIN_METHODS,
    ENVOY_AUTHORIZATION_SERVICE,
    ENVOY_QUOTA_SERVICE,
    ENVOY_RATE_LIMIT_SERVICE,
    HEALTH_SERVICE,
    KEY_ADMIN_SERVICE,
    RATE_LIMIT_SERVICE,
    Methods,
    admin_methods,
    decision_interceptor,
    decision_methods,
    envoy_methods,
    health_methods,
    methods_elsewhere,
    reflection_methods,
)
from ratelimit_service.transport.grpcio.shutdown import Notify, close_gracefully, send_goaway, send_nothing
from ratelimit_service.transport.grpcio.tls import certificates
from ratelimit_service.transport.grpcio.unfinished import Unfinished

MAX_RECEIVED: Final = 1024 * 1024
"""Bytes of a message that the library accepts. Above it the library itself returns RESOURCE_EXHAUSTED, without our
details; sizes between our own bounds and this one are refused by us, with them."""

_READ_BUFFER: Final = 64 * 1024
"""Bytes that the kernel buffers for a connection, and that a caller may send on a stream before they are asked for."""

_MAX_CONNECTIONS: Final = 10_000
"""Maximum connections of one process. Each costs some 50 KiB, even when idle."""

_MAX_METADATA: Final = 96 * 1024
"""Bytes of headers of a call, above the 60 KiB that an Envoy accepts from its own clients: some of theirs
(`tracestate`) it passes on, and a call that is refused here opens a gateway that fails open."""

_MAX_PENDING: Final = 8_000
"""Calls that wait for Python, beyond which the library cancels new ones, whoever's: an error for a gateway.

By default it would cancel some of them from 1,000 on. This is what 250 connections may begin at once, two seconds' work
and 100 MiB: who is patient still gets an answer, and no gateway waits longer.
"""

_COUNTED_LONGER: Final = 2
"""Calls that are announced for one that is meant. The library counts each until Python has let go of it, which is after
its caller may send another one, and refuses what is beyond: a gateway takes that for an error."""

_KEEPALIVE_TIMEOUT_MS: Final = 20_000
"""How long a peer may take to answer a PING. Without an answer the connection is closed."""

_MAX_GRACE: Final = 1.0
"""Seconds for which a draining server waits for clients to disconnect that it cannot ask to."""

_MAX_PATIENCE: Final = 5.0
"""The same for clients that were sent GOAWAY. One that has not read it yet, on a machine with too much to do, goes on
to begin calls; the library would refuse them."""

_log = structlog.stdlib.get_logger(__name__)


class Decisions(Protocol):
    """What the server decides by, whether or not it serves decisions."""

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
    def envoy_quotas(self) -> EnvoyQuotaService:
        """The method of Envoy's rate limit quota service."""
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
    def recorder(self) -> Recorder | None:
        """Records sampled calls; None: no call is sampled."""
        ...

    @property
    def probes(self) -> Mapping[str, Probe]:
        """Checks of the components that the health service reports, by name."""
        ...


@dataclass(slots=True)
class _Port:
    """One address, and what is served there besides health and reflection."""

    listen: str
    setting: str
    methods: "Mapping[str, grpc.RpcMethodHandler[bytes, bytes]]"
    services: tuple[str, ...]
    """Those that reflection lists."""
    server: grpc.aio.Server | None = None
    number: int = 0
    """The port that is open, 0 before it is and on a unix socket."""


_DECISION_SERVICES: Final = (
    *(RATE_LIMIT_SERVICE, ENVOY_RATE_LIMIT_SERVICE, ENVOY_AUTHORIZATION_SERVICE, ENVOY_QUOTA_SERVICE),
)


def _ports(
    settings: Settings,
    decisions: "dict[str, grpc.RpcMethodHandler[bytes, bytes]]",
    admin: "dict[str, grpc.RpcMethodHandler[bytes, bytes]]",
) -> list[_Port]:
    listen, setting = settings.listen, "RATELIMIT_LISTEN"
    if not admin:
        elsewhere = methods_elsewhere(ADMIN_METHODS, ON_CONTROL_PLANE)
        return [_Port(listen, setting, decisions | elsewhere, _DECISION_SERVICES)]
    if not settings.decides:
        elsewhere = methods_elsewhere(decisions, ON_DECISION_PLANE)
        return [_Port(listen, setting, admin | elsewhere, (KEY_ADMIN_SERVICE,))]
    if not settings.admin_listen:
        return [_Port(listen, setting, decisions | admin, (KEY_ADMIN_SERVICE, *_DECISION_SERVICES))]
    elsewhere = methods_elsewhere(ADMIN_METHODS, ON_ADMIN_PORT)
    return [
        _Port(listen, setting, decisions | elsewhere, _DECISION_SERVICES),
        _Port(settings.admin_listen, "RATELIMIT_ADMIN_LISTEN", admin, (KEY_ADMIN_SERVICE,)),
    ]


class GrpcServer:
    """Serves RateLimitService, Envoy's services, KeyAdminService, health and reflection on `settings.listen`.

    With `settings.admin_listen` KeyAdminService is served there instead, with health and reflection of its own. A
    server of one plane serves the services of that plane.

    Several processes may open the same port (SO_REUSEPORT); the kernel spreads connections over them.
    """

    def __init__(
        self, settings: Settings, planes: Decisions, key_admin: KeyAdminService | None, *, behind_envoy: bool = False
    ) -> None:
        """KEY_ADMIN is None where the control plane is elsewhere.

        BEHIND_ENVOY: whether all calls come through our Envoy, which then says who the peers are.
        """
        self._settings = settings
        self._present = present = proxied(settings.gateways) if behind_envoy else direct(settings.gateways)
        unfinished = Unfinished()
        planes.overload.bare_since = unfinished.since
        calls = planes.counts.calls
        admission = decision_admission(
            planes.authenticator, protect=settings.checks_protected, certificates=bool(settings.gateways)
        )
        recorder = planes.recorder
        intercept = decision_interceptor(admission, calls, present, planes.overload, recorder)
        decisions = decision_methods(
            planes.rate_limit, admission, intercept, unfinished, planes.overload, recorder=recorder
        ) | envoy_methods(
            planes.envoy_rate_limit,
            planes.envoy_authorization,
            planes.envoy_quotas,
            admission,
            intercept,
            unfinished,
            planes.overload,
        )
        admin: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
        if key_admin is not None:
            admin = admin_methods(key_admin, planes.authenticator, calls, present, unfinished, recorder=recorder)
        self._ports = _ports(settings, decisions, admin)
        self._health = Health(planes.probes, {service for port in self._ports for service in port.services})
        self._end_streams = planes.rate_limit.grants.watches.end
        self._notify: Notify = send_goaway

    @property
    def port(self) -> int:
        """The port that is open, 0 before `start` and on a unix socket."""
        return self._ports[0].number

    async def start(self) -> None:
        """Open the port and serve. Raises StartupError if it cannot be opened or TLS is not set up right."""
        servers = [self._open(port) for port in self._ports]
        await self._health.start()  # last, because nothing can fail after it
        for port, server in zip(self._ports, servers, strict=True):
            await server.start()
            port.server = server

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 a bound for the calls, not for this method
        """Stop: report it to health watchers, close connections gracefully, and give calls at most TIMEOUT seconds.

        Calls that come before their client has disconnected are served, for half of TIMEOUT at most, and for no longer
        than a second or, of clients that were sent GOAWAY, five. Streams of grants, which last as long as their client,
        end at once.
        """
        await self._health.drain()
        if all(port.server is None for port in self._ports):
            return
        self._end_streams()
        began = monotonic()
        numbers = [port.number for port in self._ports if port.server is not None and port.number]
        grace, patience = min(timeout / 2, _MAX_GRACE), min(timeout / 2, _MAX_PATIENCE)
        closing = (close_gracefully(number, self._notify, grace=grace, patience=patience) for number in numbers)
        left = await asyncio.gather(*closing)
        await self._stop(max(timeout - (monotonic() - began), 0))
        _log.info("drained", seconds=round(monotonic() - began, 3), connections_left=sum(left))

    async def failed(self) -> None:
        """Return when the library has stopped serving by itself.

        It does so at a call whose path is not UTF-8, which every caller can send; what it serves no more it never
        serves again in this process.
        """
        ended = [asyncio.create_task(port.server.wait_for_termination()) for port in self._ports if port.server]
        try:
            await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
            if all(port.server is None for port in self._ports):
                await asyncio.Event().wait()  # it was stopped by us
        finally:
            for task in ended:
                task.cancel()
            await asyncio.gather(*ended, return_exceptions=True)

    async def announce_drain(self) -> None:
        """Report to health watchers that this server is about to end, and keep serving."""
        await self._health.drain()

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 a bound for the calls, not for this method
        """Stop without a report to health watchers: a proxy connects them to a successor that serves already.

        Calls under way get at most TIMEOUT seconds to end.
        """
        await self._health.stop()
        await self._stop(timeout)

    async def _stop(self, seconds: float) -> None:
        servers = [port.server for port in self._ports if port.server is not None]
        for port in self._ports:
            port.server = None
        await asyncio.gather(*(server.stop(seconds) for server in servers))

    def _open(self, port: _Port) -> grpc.aio.Server:
        """A server on PORT, which is open now and served once the server is started."""
        server = grpc.aio.server(options=_options(self._settings))
        found = certificates(self._settings)
        self._notify = send_goaway if found is None else send_nothing
        try:
            if found is None:
                number = server.add_insecure_port(port.listen)
            else:
                number = server.add_secure_port(port.listen, found.credentials())
        except RuntimeError as error:
            raise StartupError(
                f"the gRPC port cannot be opened on {port.listen!r}: {error}; set {port.setting} to one that is free"
            ) from error
        port.number = 0 if port.listen.startswith("unix:") else number
        health = health_methods(self._health.servicer, self._present)
        reflection = reflection_methods((*port.services, HEALTH_SERVICE), self._present)
        server.add_generic_rpc_handlers((Methods(dict(port.methods) | health | reflection),))
        return server


def _options(settings: Settings) -> tuple[tuple[str, int], ...]:
    """The library's options. It varies the connection age by a tenth either way by itself."""
    return (
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", MAX_RECEIVED),
        ("grpc.max_concurrent_streams", _COUNTED_LONGER * settings.max_concurrent_streams),
        ("grpc.compression_enabled_algorithms_bitset", 1),  # identity alone: a compressed message is not served
        ("grpc.max_connection_age_ms", round(settings.max_connection_age * 1000)),
        ("grpc.max_connection_age_grace_ms", round(max(settings.drain_timeout, 1) * 1000)),
        ("grpc.keepalive_time_ms", 60_000),  # detects peers that vanished
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", _KEEPALIVE_TIMEOUT_MS),  # which the library goes by, and not by the line above
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # lets clients do the same, six times as often
        ("grpc.http2.max_ping_strikes", 2),  # the third PING too many closes the connection
        ("grpc.http2.max_requests_per_read", 16),  # then other connections get their turn
        ("grpc.http2.bdp_probe", 0),  # or the windows of a fast caller would grow, and what it may have buffered
        ("grpc.http2.lookahead_bytes", _READ_BUFFER),
        ("grpc.max_metadata_size", _MAX_METADATA),  # above this a call may be refused, the likelier the larger
        ("grpc.absolute_max_metadata_size", 2 * _MAX_METADATA),  # above this each
        ("grpc.server_handshake_timeout_ms", 5_000),  # TLS, and the first SETTINGS
        ("grpc.max_allowed_incoming_connections", max_connections(_MAX_CONNECTIONS)),
        ("grpc.server.max_pending_requests", _MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING),
    )
