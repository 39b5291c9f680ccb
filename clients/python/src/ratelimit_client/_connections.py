"""How the connections to the service are configured."""

from typing import Literal

import grpc

from ._gen.ratelimit.v1.rate_limit_service_pb2 import DESCRIPTOR

_SERVICE = f"/{DESCRIPTOR.services_by_name['RateLimitService'].full_name}"
CHECK_LIMIT = f"{_SERVICE}/CheckLimit"
SETTLE_LIMIT = f"{_SERVICE}/SettleLimit"
EXTEND_HOLD = f"{_SERVICE}/ExtendHold"
GRANT = f"{_SERVICE}/Grant"
STREAM_GRANT = f"{_SERVICE}/StreamGrant"

KEEPALIVE_TIME_MS = 11_000
"""How long nothing was received before a connection is pinged."""

_KEEPALIVE_TIMEOUT_MS = 2000
_MIN_CONNECT_TIMEOUT = 2.0

_CHANNEL_OPTIONS = (
    # Without this, channels to one target share one connection, and a server with SO_REUSEPORT cannot balance them.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.service_config", '{"loadBalancingConfig":[{"round_robin":{}}]}'),
    # The client retries by itself, over another connection and within the call's deadline.
    ("grpc.service_config_disable_resolution", 1),
    # Reconnect soon after an outage: gRPC's default backoff grows to 2 minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Never idle: after a quiet night, too, the deadline of a call may be shorter than a handshake.
    ("grpc.client_idle_timeout_ms", 2**31 - 1),
    # Detects a server that has vanished without closing its connections; TCP alone takes many minutes. Connections
    # without calls are pinged too: the library would ping only if there is one at the moment when this time has passed.
    # It is a second more than the service's own minimum, so that no ping comes too early.
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", _KEEPALIVE_TIMEOUT_MS),  # which the library goes by, and not by the line above
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


def channel_options(connect_timeout: float) -> tuple[tuple[str, str | int], ...]:
    """The options of a channel. An attempt to connect may take CONNECT_TIMEOUT seconds, and 2 at least."""
    attempt = round(max(_MIN_CONNECT_TIMEOUT, connect_timeout) * 1000)
    # By its name the pause after a failed attempt, but grpc-core takes it for the time that an attempt may take.
    return (*_CHANNEL_OPTIONS, ("grpc.min_reconnect_backoff_ms", attempt))


def channel_credentials(tls: grpc.ChannelCredentials | Literal[True] | None) -> grpc.ChannelCredentials | None:
    """The credentials for the option `tls`. None is plaintext."""
    return grpc.ssl_channel_credentials() if tls is True else tls
