"""Envoy's configuration: pyvoy's own, with everything that this service needs in addition.

The hot paths run in the embedded Python; every other path is proxied to the control plane. Written as plain
dictionaries, because Envoy's Python protos cannot be installed together with the wheel that contains Envoy itself.
"""

import re
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from pyvoy import Mount, PyvoyServer

from ratelimit_service.api.presented import PEER_HEADER
from ratelimit_service.transport.envoy.admin_port import AdminPort, add_admin_port
from ratelimit_service.transport.envoy.certificates import add_identity_filters
from ratelimit_service.transport.envoy.crossing import crossing_filter
from ratelimit_service.transport.envoy.paths import BATCH
from ratelimit_service.transport.envoy.shed import shed_routes
from ratelimit_service.transport.envoy.tls import Tls, transport_socket
from ratelimit_service.transport.file_descriptors import MAX_CONNECTIONS, max_connections

Json: TypeAlias = dict[str, Any]

ACCEPTED_PER_TURN: Final = 1
"""Connections that are accepted before those that are open get their turn: accepting costs as much as some calls."""

READ_PER_TURN: Final = 16 * 1024
"""Bytes that one connection may have processed before the others get their turn.

What may be sent in so many bytes bounds how long the others wait: 1,600 frames of one byte are about a millisecond.
It also bounds what the kernel buffers for a connection, and what is buffered for a caller that does not read its
responses, beyond which its calls wait.
"""

REQUESTS_PER_TURN: Final = 16
"""Calls that one connection may begin before the others get their turn. What it resets meanwhile is never begun."""

STREAM_WINDOW: Final = 65_535
"""Bytes that a caller may send on one stream before the embedded application reads them: HTTP/2's own, the least that
Envoy accepts. Of a message, the application reads each part as it arrives."""

CONNECTION_WINDOW: Final = 256 * 1024
"""The same for one connection."""

MAX_HEADERS_KIB: Final = 96
"""KiB of headers of one call, as they are decoded; beyond it the call is reset, which opens a gateway that fails open.

So it is above the 60 KiB that an Envoy accepts from its own clients: some of theirs (`tracestate`) it passes on.
"""

MAX_HEADERS: Final = 160
"""Number of headers of one call, for the same reason above the 100 that an Envoy accepts from its own clients."""

HEADERS_SECONDS: Final = 10
"""Seconds in which the headers of a call must be complete once they have begun."""

HANDSHAKE_SECONDS: Final = 5
"""Seconds in which the first bytes of a connection must be there, and a TLS handshake complete."""

UNARY_SECONDS: Final = 10
"""Seconds for which nothing may arrive or be sent on a call of one message. Decisions take milliseconds."""

ADMIN_SECONDS: Final = 120
"""The same for the methods that are proxied to the control plane, but for those that stream."""

QUIET_SECONDS: Final = 86_400
"""The same for methods that stream, which are quiet as long as they like: it only counts under pressure."""

MAX_HEAP: Final = 1024 * 1024 * 1024
"""Bytes of Envoy's heap by which its pressure is reckoned: from _PRESSURE of them on, less is waited for."""

_PRESSURE: Final = (0.25, 0.375)
_PRESSED_SECONDS: Final = 1
"""What becomes of the seconds for which a call may be idle, step by step between these two shares of MAX_HEAP.

Calls of one message that do not send it hold their headers, of up to MAX_HEADERS_KIB, and streams whose caller does not
read what he asked for, which nothing but a reset ends: this bounds how long.
"""

RELEASED_A_SECOND: Final = 8 * 1024 * 1024
"""Bytes of free memory that go back to the machine each second."""

MAX_RESPONSE_FRAMES: Final = 1_000
"""Frames of responses that may wait for a caller of streams who reads late. Beyond them, and four for each call that he
may have, the connection is closed. READ_PER_TURN holds about 400 of the smallest; then the streams wait."""

MAX_RESPONSES_IN_FRAME: Final = 1_300
"""For each frame of responses that was sent, a caller may send twice as many WINDOW_UPDATE. Clients of grpc open the
stream's window for each response, perhaps the connection's too; a frame of 16 KiB holds 1,260 of the smallest."""

MAX_RESETS: Final = 50_000
"""Calls that a connection may reset before they are answered, as long as they are most of its calls.

A gateway that gives up after 20 ms, with 2,000 calls a second on a connection and none of them answered, reaches it
after 25 s; whoever resets as fast as he can, in one or two.
"""

RECEIVE_BUFFER: Final = 16 * 1024
"""Bytes that the kernel buffers of what one connection sends, beyond which the sender waits."""

SEND_BUFFER: Final = 128 * 1024
"""Bytes that the kernel buffers for a caller that does not read; by default it would be 4 MiB for each."""

MAX_ADMIN_CALLS: Final = 256
"""Maximum calls that are proxied to the control plane at a time, but for those that stream; more get UNAVAILABLE."""

MAX_HEALTH_CHECKS: Final = 1_000
"""The same for health checks, which are proxied once their message is there."""

_MAX_HEALTH_MESSAGE: Final = 4 * 1024
"""Bytes of the message of a health check, with its prefix: the name of a service."""

MAX_CONTROL_STREAMS: Final = 2_000
"""The same for health watches and server reflection: more than the control plane keeps, which counts by connection."""

_CONTROL: Final = "control"
_HEALTH: Final = "control_health"
_STREAMS: Final = "control_streams"
_BUFFER: Final = "whole_message"
_TYPES: Final = "type.googleapis.com"
_HTTP2: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_BUFFER_TYPE: Final = f"{_TYPES}/envoy.extensions.filters.http.buffer.v3.Buffer"
_HEAP: Final = "envoy.resource_monitors.fixed_heap"
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
    max_concurrent_streams: int
    """Calls that one connection may have in flight."""
    tls: Tls | None
    streams: Sequence[str] = ()
    """The paths of `hot_paths` that may stay open for any time."""
    shed_paths: Sequence[str] = ()
    """The paths of `hot_paths` whose calls Envoy refuses by itself under overload."""
    gateways: Collection[str] = ()
    """The names of certificates that make their callers gateways."""
    admin_methods: AdminPort | None = None
    """The port of the admin methods, if they have one of their own."""
    crossing: Path | None = None
    """The module by which calls of one message cross to the embedded application; None: as all others do.

    Batches cross as others do: their responses are large, and wait there while the caller does not read. Of the small
    ones of this module a connection has MAX_RESPONSE_FRAMES at most, half a megabyte.
    """


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
        "max_connections_to_accept_per_socket_event": ACCEPTED_PER_TURN,
        "per_connection_buffer_limit_bytes": READ_PER_TURN,
        "socket_options": [_buffer(socket.SO_RCVBUF, RECEIVE_BUFFER), _buffer(socket.SO_SNDBUF, SEND_BUFFER)],
    }
    inspector = "http" if options.tls is None else "tls"
    listener["listener_filters"] = [_inspector(inspector)]
    listener["listener_filters_timeout"] = f"{HANDSHAKE_SECONDS}s"
    chain = listener["filter_chains"][0]
    chain["transport_socket_connect_timeout"] = f"{HANDSHAKE_SECONDS}s"
    if options.tls is not None:
        chain["transport_socket"] = transport_socket(options.tls)
    http = chain["filters"][0]["typed_config"]
    http |= _http_options(options)
    http["route_config"]["virtual_hosts"][0]["routes"] = _routes(options)
    _match_only(http["http_filters"][0], options.hot_paths)
    http["http_filters"].insert(-1, _buffer_filter())
    if options.crossing is not None:
        others = {*options.streams, BATCH}
        crossing = [path for path in options.hot_paths if path not in others]
        http["http_filters"].insert(0, crossing_filter(options.crossing, crossing))
    refusing = shed_routes(options.shed_paths, [one["name"] for one in http["http_filters"][:-1]])
    http["route_config"]["virtual_hosts"][0]["routes"][:0] = refusing
    resources["clusters"] = [
        _control_cluster(_CONTROL, options, MAX_ADMIN_CALLS),
        _control_cluster(_HEALTH, options, MAX_HEALTH_CHECKS),
        _control_cluster(_STREAMS, options, MAX_CONTROL_STREAMS),
    ]
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
    # What was freed goes back to the machine, which the allocator does not do by itself.
    config["memory_allocator_manager"] = {"bytes_to_release": RELEASED_A_SECOND, "memory_release_interval": "1s"}
    return config


def _http_options(options: EnvoyOptions) -> Json:
    return {
        "codec_type": "HTTP2",  # what is not gRPC is closed; nothing has to guess which protocol it is
        "common_http_protocol_options": {
            "idle_timeout": "0s",  # gateways keep connections; pings detect dead ones
            # Envoy's jitter only adds: start a tenth below.
            "max_connection_duration": f"{options.max_connection_age * 0.9:.3f}s",
            "max_connection_duration_jitter": {"value": 22.2},
            "max_headers_count": MAX_HEADERS,
        },
        "http2_protocol_options": {
            "max_concurrent_streams": options.max_concurrent_streams,
            "initial_stream_window_size": STREAM_WINDOW,
            "initial_connection_window_size": CONNECTION_WINDOW,
            "connection_keepalive": {"interval": "60s", "timeout": "20s"},
            # Beyond these the connection is closed. A caller that reads gets its answers to PING and SETTINGS at once;
            # one that does not has these many waiting for it.
            "max_outbound_control_frames": 200,
            "max_outbound_frames": MAX_RESPONSE_FRAMES + 4 * options.max_concurrent_streams,
            "max_consecutive_inbound_frames_with_empty_payload": 1,  # of use to nobody
            "max_inbound_priority_frames_per_stream": 2,  # this server takes no notice of them
            "max_inbound_window_update_frames_per_data_frame_sent": MAX_RESPONSES_IN_FRAME,
        },
        "max_request_headers_kb": MAX_HEADERS_KIB,
        "request_headers_timeout": f"{HEADERS_SECONDS}s",
        "stream_idle_timeout": "0s",  # routes have their own
        "drain_timeout": "1s",  # between GOAWAY and refusing new calls
        "server_header_transformation": "PASS_THROUGH",
        "generate_request_id": False,  # nobody reads it
        "use_remote_address": True,  # the peer is the other end of the connection, whatever X-Forwarded-For says
        "skip_xff_append": True,
        "normalize_path": False,
    }


def _inspector(protocol: str) -> Json:
    """Waits for what a connection sends first, `http` or `tls`: one that sends nothing is closed."""
    name = f"{protocol}_inspector"
    kind = f"{_TYPES}/envoy.extensions.filters.listener.{name}.v3.{protocol.capitalize()}Inspector"
    return {"name": name, "typed_config": {"@type": kind}}


def _buffer(name: int, size: int) -> Json:
    """A buffer of the kernel's for each connection, which it doubles for its own bookkeeping."""
    return {"level": socket.SOL_SOCKET, "name": name, "int_value": size, "state": "STATE_PREBIND"}


def _match_only(composite: Json, paths: Sequence[str]) -> None:
    """Have the composite filter pass exactly these paths to the embedded application, and nothing else."""
    tree = composite["typed_config"]["xds_matcher"].pop("matcher_tree")
    (action,) = tree["prefix_match_map"]["map"].values()
    predicates = [{"single_predicate": {"input": tree["input"], "value_match": {"exact": path}}} for path in paths]
    # One matcher with one action: each further action would be a further interpreter thread.
    composite["typed_config"]["xds_matcher"]["matcher_list"] = {
        "matchers": [{"predicate": {"or_matcher": {"predicate": predicates}}, "on_match": action}]
    }


def _routes(options: EnvoyOptions) -> list[Json]:
    """The first that matches a path holds. Those of the embedded application are never proxied, only timed."""
    return [
        *(_route(path, _CONTROL, QUIET_SECONDS, exact=True) for path in options.streams),
        *(_route(path, _CONTROL, UNARY_SECONDS, exact=True) for path in options.hot_paths),
        _health_check(),
        _route("/grpc.health.v1.Health/Watch", _STREAMS, QUIET_SECONDS, exact=True),
        _route("/grpc.reflection.", _STREAMS, QUIET_SECONDS),
        _route("/", _CONTROL, ADMIN_SECONDS),
    ]


def _route(path: str, cluster: str, seconds: int, *, exact: bool = False) -> Json:
    """Where calls of PATH, or of all that begin so, go, and for how many SECONDS they may be idle."""
    return {
        # grpc.aio stops serving at a path that is not UTF-8: nothing but printable ASCII is proxied.
        "match": {"path": path} if exact else {"safe_regex": {"regex": re.escape(path) + "[!-~]*"}},
        "route": {
            "cluster": cluster,
            "timeout": "0s",  # the caller's own deadline is forwarded
            # Only calls that the control plane cannot have begun, as while it restarts.
            "retry_policy": {"retry_on": "connect-failure,refused-stream", "num_retries": 3},
            # Not max_stream_duration: with it, Envoy takes the caller's deadline out of the headers.
            "idle_timeout": f"{seconds}s",
        },
        "request_headers_to_add": [
            {
                "header": {"key": PEER_HEADER, "value": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
    }


def _health_check() -> Json:
    """The route of health checks.

    Whoever does not send the message holds no place of those that are proxied, which probes need: one that fails has an
    orchestrator restart the server, and a gateway do without it.
    """
    route = _route("/grpc.health.v1.Health/Check", _HEALTH, UNARY_SECONDS, exact=True)
    buffered = {"@type": f"{_BUFFER_TYPE}PerRoute", "buffer": {"max_request_bytes": _MAX_HEALTH_MESSAGE}}
    return route | {"typed_per_filter_config": {_BUFFER: buffered}}


def _buffer_filter() -> Json:
    """Holds calls back until their message is there, only on routes that say so."""
    config = {"@type": _BUFFER_TYPE, "max_request_bytes": _MAX_HEALTH_MESSAGE}
    return {"name": _BUFFER, "disabled": True, "typed_config": config}


def _control_cluster(name: str, options: EnvoyOptions, calls: int) -> Json:
    """The control plane, with at most so many CALLS at a time."""
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": CONNECTION_WINDOW,
        "circuit_breakers": {"thresholds": [{"max_requests": calls, "max_pending_requests": calls, "max_retries": 3}]},
        "typed_extension_protocol_options": {
            _HTTP2: {
                "@type": f"{_TYPES}/{_HTTP2}",
                "explicit_http_config": {
                    "http2_protocol_options": {
                        "max_concurrent_streams": options.max_concurrent_streams,  # it announces more
                        "initial_stream_window_size": STREAM_WINDOW,
                        "initial_connection_window_size": CONNECTION_WINDOW,
                    }
                },
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(options.control_socket)}}}}]}
            ],
        },
    }


def _runtime() -> Json:
    """Envoy's runtime settings: how clients are treated that reset the calls that they open.

    Envoy closes a connection that has reset more than half of so many calls within a second of their start, before
    they were answered; later, one that has reset more than half of all its calls. By default that is 500, and its
    older HTTP/2 library allows 1,000, or 33 a second. A gateway with a timeout of 20 ms behaves exactly so during an
    overload, when it must not lose its connections; hence MAX_RESETS and the newer library. Below that bound
    REQUESTS_PER_TURN holds: calls beyond it that are reset in the same turn are dropped before they are begun.
    """
    layer = {
        "overload": {"premature_reset_total_stream_count": 2 * MAX_RESETS},
        "http": {"max_requests_per_io_cycle": REQUESTS_PER_TURN},
        "envoy.reloadable_features.http2_use_oghttp2": True,
    }
    return {"layers": [{"name": "service", "static_layer": layer}, {"name": "shed", "admin_layer": {}}]}


def _overload_manager() -> Json:
    monitor = {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": f"{_TYPES}/{_CONNECTIONS_CONFIG}",
            "max_active_downstream_connections": max_connections(MAX_CONNECTIONS),
        },
    }
    heap = {
        "name": _HEAP,
        "typed_config": {
            "@type": f"{_TYPES}/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
            "max_heap_size_bytes": MAX_HEAP,
        },
    }
    begins, ends = _PRESSURE
    reduce_timeouts = {
        "name": "envoy.overload_actions.reduce_timeouts",
        "triggers": [{"name": _HEAP, "scaled": {"scaling_threshold": begins, "saturation_threshold": ends}}],
        "typed_config": {
            "@type": f"{_TYPES}/envoy.config.overload.v3.ScaleTimersOverloadActionConfig",
            "timer_scale_factors": [
                {"timer": "HTTP_DOWNSTREAM_STREAM_IDLE", "min_timeout": f"{_PRESSED_SECONDS}s"},
            ],
        },
    }
    shrink_heap = {
        "name": "envoy.overload_actions.shrink_heap",
        "triggers": [{"name": _HEAP, "threshold": {"value": begins}}],
    }
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [monitor, heap],
        "actions": [reduce_timeouts, shrink_heap],
    }
