"""Another rate limiter that speaks Envoy's protocol, to compare with: envoyproxy/ratelimit, or one on any port.

envoyproxy/ratelimit is built from its Go module. It gets the limits of `peer.yaml` on the service's own Valkey, where
their keys have different names, and the settings that its documentation recommends for throughput: writes to Redis are
gathered for 150 us (REDIS_PIPELINE_LIMIT has no effect any more), no statistics, and only errors in the log.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

from bench.go_programs import installed
from bench.target import Target, await_port, free_port, running

VERSION: Final = "v1.4.1-0.20260122083618-3fb702589d36"
"""Of the module github.com/envoyproxy/ratelimit."""

RULES: Final = Path(__file__).with_name("peer.yaml")
_PACKAGE: Final = "github.com/envoyproxy/ratelimit/src/service_cmd"
_CACHE_BYTES: Final = 64 * 2**20


def program() -> Path | None:
    """envoyproxy/ratelimit, built if need be, in a minute. None if it cannot be had."""
    return installed(_PACKAGE, VERSION)


@contextmanager
def envoy_ratelimit(built: Path, redis_port: int, folder: Path, *, cached: bool) -> Iterator[Target]:
    """Run it in FOLDER; CACHED: denied keys are kept in its local cache until their window ends."""
    config = folder / "ratelimit" / "config"
    config.mkdir(parents=True)
    shutil.copy(RULES, config)
    port = free_port()
    environment = {**os.environ, **_settings(folder, port, redis_port, _CACHE_BYTES if cached else 0)}
    with running([str(built)], environment) as process:
        await_port(port, process)
        yield Target(port, process.pid, "peer", 1)


def _settings(folder: Path, port: int, redis_port: int, cache_bytes: int) -> Mapping[str, str]:
    return {
        "RUNTIME_ROOT": str(folder),
        "RUNTIME_SUBDIRECTORY": "ratelimit",
        "RUNTIME_WATCH_ROOT": "false",
        "HOST": "127.0.0.1",
        "PORT": str(free_port()),
        "DEBUG_HOST": "127.0.0.1",
        "DEBUG_PORT": str(free_port()),
        "GRPC_HOST": "127.0.0.1",
        "GRPC_PORT": str(port),
        "REDIS_SOCKET_TYPE": "tcp",
        "REDIS_URL": f"127.0.0.1:{redis_port}",
        "REDIS_PIPELINE_WINDOW": "150us",
        "LOCAL_CACHE_SIZE_IN_BYTES": str(cache_bytes),
        "USE_STATSD": "false",
        "DISABLE_STATS": "true",
        "LOG_LEVEL": "error",
    }


def running_on(port: int) -> Target:
    """A peer that somebody else has started on this machine. Raises SystemExit if nobody has."""
    for connection in psutil.net_connections("tcp"):
        address, pid = connection.laddr, connection.pid
        if address and address.port == port and connection.status == psutil.CONN_LISTEN and pid is not None:
            return Target(port, pid, "peer", 1)
    raise SystemExit(f"no process that this user may see listens on port {port}")
