"""How the connections to the service are set up."""

from ._gen.ratelimit.v1.rate_limit_service_pb2 import DESCRIPTOR

METHOD = f"/{DESCRIPTOR.services_by_name['RateLimitService'].full_name}/CheckLimit"

CHANNEL_OPTIONS = (
    # Without this, channels with the same target share one connection, and SO_REUSEPORT has nothing to spread.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.service_config", '{"loadBalancingConfig":[{"round_robin":{}}]}'),
    # Retries are ours: over another connection, within the call's deadline. gRPC repeats only what no server has seen.
    ("grpc.service_config_disable_resolution", 1),
    # A service that comes back is to be noticed soon: gRPC's default waits up to 2 minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
