"""The process of the HTTP port: it passes calls on to a gRPC server of this server, and knows no store.

It runs once for each server that has the port.
"""

import asyncio
import os
import signal
import socket
from pathlib import Path

from ratelimit_service.operations.listener import Listener
from ratelimit_service.operations.tls import TlsFiles
from ratelimit_service.server.child import SupervisorLink, run_child
from ratelimit_service.server.freed_memory import keep_releasing
from ratelimit_service.server.http_port import BACKEND_VARIABLE, PORT_VARIABLE
from ratelimit_service.settings import Settings
from ratelimit_service.transport.connect.app import ConnectApp
from ratelimit_service.transport.connect.backend import Backend


def main() -> None:
    """Run the process until SIGTERM, or until the parent, whose id is the first argument, ends."""
    run_child(_run)


async def _run(settings: Settings, supervisor: SupervisorLink) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    tls = None
    if settings.tls_certificate is not None and settings.tls_key is not None:
        tls = TlsFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    backend = Backend(Path(os.environ[BACKEND_VARIABLE]), settings.max_concurrent_streams)
    listener = Listener(socket.socket(fileno=int(os.environ[PORT_VARIABLE])), tls)
    listener.app = ConnectApp(backend, gateways=settings.gateways, tls_only=tls is not None)
    listener.start()
    releasing = asyncio.create_task(keep_releasing())
    supervisor.report_ready()
    await stop.wait()
    supervisor.rest()
    await listener.close(settings.drain_timeout)
    releasing.cancel()
    await backend.close()
