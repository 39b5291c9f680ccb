"""Serving the sum of all workers' metrics."""

import os
from pathlib import Path
from threading import Thread
from typing import Final
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from ratelimit_service.errors import StartupError

DIRECTORY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable with the workers' shared folder. Must be set when a worker's interpreter starts."""


class MetricsServer:
    """Serves `/metrics` of all workers that share a folder. Created by `serve_metrics`."""

    def __init__(self, server: WSGIServer, thread: Thread) -> None:
        self._server = server
        self._thread = thread
        self.port: int = server.server_port
        """The port that it listens on."""

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve_metrics(listen: str, directory: Path) -> MetricsServer:
    """Serve `/metrics` on LISTEN (`host:port`; port 0 is any free one) from the files that workers keep in DIRECTORY.

    Raises StartupError if the address cannot be opened.
    """
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(directory))  # type: ignore[no-untyped-call]
    host, _, port = listen.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]") or "0.0.0.0", registry)  # noqa: S104 as asked
    except (OSError, ValueError, OverflowError) as error:
        raise StartupError(
            f"the metrics port cannot be opened on {listen!r}: {error}; set RATELIMIT_METRICS_LISTEN to a free "
            "host:port, or to an empty value for no metrics"
        ) from error
    return MetricsServer(server, thread)


def forget_worker(pid: int, directory: Path) -> None:
    """Drop the gauges of the worker that had this process id; its counters still count."""
    mark_process_dead(pid, os.fspath(directory))  # type: ignore[no-untyped-call]
