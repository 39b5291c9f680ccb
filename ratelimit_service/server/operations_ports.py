"""The ports of the operations process, which the supervisor opens, and how it starts that process on them."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from ratelimit_service.operations.loopback import is_loopback
from ratelimit_service.server.child import Child, start
from ratelimit_service.server.instance import Instance
from ratelimit_service.server.port import open_listener, resolve, with_port
from ratelimit_service.settings import Settings

_MODULE: Final = "ratelimit_service.server.operations"
_OPERATIONS_VARIABLE: Final = "RATELIMIT_OPERATIONS_FD"
_CONSOLE_VARIABLE: Final = "RATELIMIT_CONSOLE_FD"


@dataclass(frozen=True, slots=True)
class Ports:
    """The listening sockets of the operations process. They are the supervisor's: a successor gets the same ones."""

    operations: socket.socket | None
    console: socket.socket | None

    def opened(self, settings: Settings) -> dict[str, str]:
        """The settings of the ports with the addresses as they were opened."""
        listening = {"operations_listen": self.operations, "console_listen": self.console}
        return {
            name: with_port(getattr(settings, name), port.getsockname()[1])
            for name, port in listening.items()
            if port is not None
        }

    @classmethod
    def inherited(cls) -> "Ports":
        """Those that the supervisor has passed to this process."""

        def inherit(variable: str) -> socket.socket | None:
            return socket.socket(fileno=int(os.environ[variable])) if variable in os.environ else None

        return cls(inherit(_OPERATIONS_VARIABLE), inherit(_CONSOLE_VARIABLE))


@contextmanager
def open_ports(settings: Settings) -> Iterator[Ports]:
    """Listen on the addresses that the settings name, and close them at the end. Raises StartupError."""
    with ExitStack() as stack:

        def listen(address: str, setting: str) -> socket.socket | None:
            return stack.enter_context(open_listener(address, setting)) if address else None

        yield Ports(
            listen(settings.operations_listen, "RATELIMIT_OPERATIONS_LISTEN"),
            listen(settings.console_listen, "RATELIMIT_CONSOLE_LISTEN"),
        )


def console_obstacle(settings: Settings) -> str:
    """Why the console is off although there is a port for it, and what to do; empty if it is not.

    Raises StartupError if the address of the port is invalid.
    """
    if not settings.manages:
        return ""
    listen = settings.console_listen or settings.operations_listen
    setting = "RATELIMIT_CONSOLE_LISTEN" if settings.console_listen else "RATELIMIT_OPERATIONS_LISTEN"
    if not listen or settings.tls_certificate is not None or is_loopback(resolve(listen, setting)[-1][0]):
        return ""
    return (
        f"{setting} is {listen}, and beyond loopback the console needs TLS; set RATELIMIT_TLS_CERTIFICATE and "
        "RATELIMIT_TLS_KEY, or give it a port of its own with RATELIMIT_CONSOLE_LISTEN=127.0.0.1:9465"
    )


class Operations:
    """Starts operations processes, all on the same sockets: while one takes the place of another, none is refused."""

    def __init__(self, instance: Instance, ports: Ports) -> None:
        self._instance = instance
        self._ports = ports

    async def start(self) -> Child:
        """Start one."""
        listening = {_OPERATIONS_VARIABLE: self._ports.operations, _CONSOLE_VARIABLE: self._ports.console}
        numbers = {name: port.fileno() for name, port in listening.items() if port is not None}
        variables = {name: str(number) for name, number in numbers.items()}
        environment = {**self._instance.environment(), **variables}
        return await start("operations", _MODULE, [str(os.getpid())], environment, inherited=tuple(numbers.values()))
