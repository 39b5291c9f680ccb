"""The port for JSON over HTTP, which the supervisor opens, and how it starts the process that serves it."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pydantic import SecretStr

from ratelimit_service.server.child import Child, start
from ratelimit_service.server.instance import Instance
from ratelimit_service.server.port import open_listener, with_port
from ratelimit_service.settings import Settings

PORT_VARIABLE: Final = "RATELIMIT_HTTP_FD"
"""The environment variable with the number of the listening socket."""

BACKEND_VARIABLE: Final = "RATELIMIT_HTTP_BACKEND"
"""The environment variable with the unix socket of the gRPC server that is asked."""

_MODULE: Final = "ratelimit_service.server.http_process"


@contextmanager
def open_http_port(settings: Settings) -> Iterator[socket.socket | None]:
    """Listen on `http_listen` until the block ends; None if it is empty. Raises StartupError."""
    if not settings.http_listen:
        yield None
        return
    with open_listener(settings.http_listen, "RATELIMIT_HTTP_LISTEN") as port:
        yield port


def opened_http(settings: Settings, port: socket.socket | None) -> dict[str, str]:
    """The setting of the PORT with the address as it was opened."""
    return {} if port is None else {"http_listen": with_port(settings.http_listen, port.getsockname()[1])}


class HttpProcesses:
    """Starts processes that serve the port, all on the same socket: none is refused while one replaces another.

    They have none of the server's secrets: what strangers speak to first has only the calls under way to give away.
    """

    def __init__(self, instance: Instance, port: socket.socket) -> None:
        self._instance = instance
        self._port = port

    async def start(self) -> Child:
        """Start one."""
        none = SecretStr("")
        environment = self._instance.environment(
            database_url=none,
            decision_database_url=none,
            redis_url=none,
            peppers=none,
            alert_webhook_url=none,
            alert_webhook_secret=none,
        )
        number = self._port.fileno()
        own = {PORT_VARIABLE: str(number), BACKEND_VARIABLE: str(self._instance.control_socket)}
        return await start("http", _MODULE, [str(os.getpid())], {**environment, **own}, inherited=(number,))
