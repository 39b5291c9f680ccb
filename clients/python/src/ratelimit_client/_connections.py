"""How the connections to the service are configured."""

from typing import Literal

import grpc

from ._gen.ratelimit.v1.rate_limit_service_pb2 import DESCRIPTOR

_SERVICE = f"/{DESCRIPTOR.services_by_name['RateLimitService'].full_name}"
CHECK_LIMIT = f"{_SERVICE}/CheckLimit"
SETTLE_LIMIT = f"{_SERVICE}/SettleLimit"
EXTEND_HOLD = f"{_SERVICE}/ExtendHold"

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
)


def channel_options(connect_timeout: float) -> tuple[tuple[str, str | int], ...]:
    """The options of a channel. An attempt to connect may take CONNECT_TIMEOUT seconds, and 2 at least."""
    attempt = round(max(_MIN_CONNECT_TIMEOUT, connect_timeout) * 1000)
    # By its name the pause after a failed attempt, but grpc-core takes it for the time that an attempt may take.
    return (*_CHANNEL_OPTIONS, ("grpc.min_reconnect_backoff_ms", attempt))


def channel_credentials(tls: grpc.ChannelCredentials | Literal[True] | None) -> grpc.ChannelCredentials | None:
    """The credentials for the option `tls`. None is plaintext."""
    return grpc.ssl_channel_credentials() if tls is True else tls
