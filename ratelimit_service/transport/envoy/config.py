"""Envoy's configuration: pyvoy's own, with everything that this service needs in addition.

The hot paths run in the embedded Python; every other path is proxied to the control plane. Written as plain
dictionaries, because Envoy's Python protos cannot be installed together with the wheel that contains Envoy itself.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from pyvoy import Mount, PyvoyServer

from ratelimit_service.api.messages import MAX_STREAMS
from ratelimit_service.api.presented import PEER_HEADER
from ratelimit_service.transport.envoy.admin_port import AdminPort, add_admin_port
from ratelimit_service.transport.envoy.certificates import add_identity_filters
from ratelimit_service.transport.envoy.shed import local_replies, shed_filter
from ratelimit_service.transport.envoy.tls import Tls, transport_socket

Json: TypeAlias = dict[str, Any]

REQUESTS_PER_TURN: Final = 64
"""Maximum calls that one connection may begin before the others get their turn."""

STREAM_WINDOW: Final = 256 * 1024
"""Bytes that a caller may send on one stream before the embedded application reads them."""

CONNECTION_WINDOW: Final = 1024 * 1024
"""The same for one connection; also the bytes that are buffered for a caller that does not read its responses."""

MAX_CONNECTIONS: Final = 20_000
"""Maximum connections that one Envoy accepts. Each costs some 100 KiB, even when idle."""

_CONTROL: Final = "control"
_TYPES: Final = "type.googleapis.com"
_HTTP2: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_CONNECTIONS_CONFIG: Final = "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"


@dataclass(frozen=True, slots=True)
class EnvoyOptions:
    """What the configuration of one Envoy depends on."""

    app: str
    """The embedded application, `module:attribute`."""
    hot_paths: Sequence[str]
    """The paths that the embedded application serves."""
    host: str
    port: int
    """The public address. Several Envoys may share it: the kernel distributes connections among them."""
    admin_socket: Path
    control_socket: Path
    """Where the control plane listens, without TLS."""
    max_connection_age: float
    """Seconds, plus or minus a tenth, after which a connection is closed gracefully (GOAWAY)."""
    tls: Tls | None
    gateways: Collection[str] = ()
    """The names of certificates that make their callers gateways."""
    admin_methods: AdminPort | None = None
    """The port of the admin methods, if they have one of their own."""


def envoy_config(options: EnvoyOptions) -> Json:
    """The configuration to start Envoy with. It contains no secret."""
    config: Json = PyvoyServer([Mount(options.app, "/")], lifespan=True).get_envoy_config()
    resources = config["static_resources"]
    listener = resources["listeners"][0]
    listener |= {
        "address": {
            "socket_address": {"address": options.host, "port_value": options.port, "ipv4_compat": options.host == "::"}
        },
        "enable_reuse_port": True,
        "tcp_backlog_size": 4096,  # a fleet of gateways that reconnect at once; the kernel's own bound applies too
        "per_connection_buffer_limit_bytes": CONNECTION_WINDOW,
    }
    chain = listener["filter_chains"][0]
    if options.tls is not None:
        chain["transport_socket"] = transport_socket(options.tls)
    http = chain["filters"][0]["typed_config"]
    http |= _http_options(options)
    http["route_config"]["virtual_hosts"][0]["routes"] = [_control_route()]
    _match_only(http["http_filters"][0], options.hot_paths)
    http["http_filters"].insert(0, shed_filter())
    resources["clusters"] = [_control_cluster(options.control_socket)]
    if options.admin_methods is not None:
        add_admin_port(resources, options.admin_methods)
    if options.gateways:
        add_identity_filters(resources["listeners"], options.gateways)
    config["admin"] = {"address": {"pipe": {"path": str(options.admin_socket), "mode": 0o600}}}
    config["node"] = {
        "id": "ratelimit-service",
        "cluster": "ratelimit-service",
    }  # required for watched files
    config["layered_runtime"] = _runtime()
    config["overload_manager"] = _overload_manager()
    return config


def _http_options(options: EnvoyOptions) -> Json:
    return {
        "common_http_protocol_options": {
            "idle_timeout": "0s",  # gateways keep connections; pings detect dead ones
            # Envoy's jitter only adds: start a tenth below.
            "max_connection_duration": f"{options.max_connection_age * 0.9:.3f}s",
            "max_connection_duration_jitter": {"value": 22.2},
        },
        "http2_protocol_options": {
            "max_concurrent_streams": MAX_STREAMS,
            "initial_stream_window_size": STREAM_WINDOW,
            "initial_connection_window_size": CONNECTION_WINDOW,
            "connection_keepalive": {"interval": "60s", "timeout": "20s"},
        },
        "stream_idle_timeout": "0s",  # a stream of checks may be idle for any time
        "drain_timeout": "1s",  # between GOAWAY and refusing new calls
        "local_reply_config": local_replies(),
        "server_header_transformation": "PASS_THROUGH",
        "use_remote_address": True,  # the peer is the other end of the connection, whatever X-Forwarded-For says
        "skip_xff_append": True,
        "normalize_path": False,
    }


def _match_only(composite: Json, paths: Sequence[str]) -> None:
    """Have the composite filter pass exactly these paths to the embedded application, and nothing else."""
    tree = composite["typed_config"]["xds_matcher"].pop("matcher_tree")
    (action,) = tree["prefix_match_map"]["map"].values()
    predicates = [{"single_predicate": {"input": tree["input"], "value_match": {"exact": path}}} for path in paths]
    # One matcher with one action: each further action would be a further interpreter thread.
    composite["typed_config"]["xds_matcher"]["matcher_list"] = {
        "matchers": [{"predicate": {"or_matcher": {"predicate": predicates}}, "on_match": action}]
    }


def _control_route() -> Json:
    return {
        "match": {"prefix": "/"},
        "route": {
            "cluster": _CONTROL,
            "timeout": "0s",  # the caller's own deadline is forwarded
            # Only calls that the control plane cannot have begun, as while it restarts.
            "retry_policy": {"retry_on": "connect-failure,refused-stream", "num_retries": 3},
        },
        "request_headers_to_add": [
            {
                "header": {"key": PEER_HEADER, "value": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
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
    """Envoy's runtime settings: how clients are treated that reset the calls that they open.

    Envoy's own protection closes a connection once more than half of 500 calls were reset within a second of their
    start, and its older HTTP/2 library once 1,000 were, or 33 a second. A gateway with a timeout of 20 ms behaves
    exactly so during an overload, when it must not lose its connections. So the threshold is set out of reach and the
    newer library is used. What such a client can do here is bounded by MAX_STREAMS and REQUESTS_PER_TURN; the port is
    for gateways, not for the public.
    """
    layer = {
        "overload": {"premature_reset_total_stream_count": 10**15},
        "http": {"max_requests_per_io_cycle": REQUESTS_PER_TURN},
        "envoy.reloadable_features.http2_use_oghttp2": True,
    }
    return {"layers": [{"name": "service", "static_layer": layer}, {"name": "shed", "admin_layer": {}}]}


def _overload_manager() -> Json:
    monitor = {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": f"{_TYPES}/{_CONNECTIONS_CONFIG}",
            "max_active_downstream_connections": MAX_CONNECTIONS,
        },
    }
    return {"resource_monitors": [monitor]}
