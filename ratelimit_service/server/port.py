"""The ports of a server: the public one, which its workers share, and those that one process serves."""

import errno
import socket
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from ratelimit_service.errors import StartupError


def split_address(text: str) -> tuple[str, int]:
    """Split `host:port` or `[v6]:port`. Raises StartupError."""
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65535):  # noqa: PLR2004  # the largest port
        raise StartupError(f"{text!r} is not an address; write host:port, for example 127.0.0.1:50051 or [::]:50051")
    return host.removeprefix("[").removesuffix("]"), int(port)


def with_port(listen: str, port: int) -> str:
    """LISTEN with PORT, the one that was opened, in place of its own, which is 0 for any free one."""
    return f"{listen.rpartition(':')[0]}:{port}"


_Resolved: TypeAlias = tuple[socket.AddressFamily, socket.SocketKind, int, tuple[Any, ...]]


def resolve(listen: str, setting: str) -> _Resolved:
    """Family, kind, protocol and address of LISTEN, the value of SETTING. Raises StartupError."""
    return resolve_all(listen, setting)[0]


def resolve_all(listen: str, setting: str) -> list[_Resolved]:
    """The same for each address that the host of LISTEN has: the first one is listened on."""
    try:
        host, port = split_address(listen)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except StartupError as error:
        raise StartupError(f"{setting}: {error}") from None
    except OSError as error:
        raise StartupError(
            f"cannot listen on {listen}: the host {host!r} is not known ({error.strerror}); correct {setting}"
        ) from None
    return [(family, kind, protocol, address) for family, kind, protocol, _, address in found]


def _bind(listen: str, setting: str) -> socket.socket:
    """A socket on LISTEN, the value of SETTING, that nothing else holds. Raises StartupError."""
    family, kind, protocol, address = resolve(listen, setting)
    bound = socket.socket(family, kind, protocol)
    try:
        # Only for the bind: connections of an earlier server that linger in TIME_WAIT must not prevent it.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        advice = _ADVICE.get(error.errno or 0, "set {} to another address")
        raise StartupError(f"cannot listen on {listen}: {error.strerror}; {advice.format(setting)}") from None
    return bound


_ADVICE: Final = {
    errno.EADDRINUSE: "stop the process that holds the port, or set {} to another one",
    errno.EACCES: "set {} to a port from 1024 on, which needs no special rights",
    errno.EADDRNOTAVAIL: "set {} to an address of this machine",
}
"""What to do about an address that cannot be taken, for the setting that names it."""


_BACKLOG: Final = 128
"""Connections that wait to be accepted, as while the process that serves the port is replaced."""


def open_listener(listen: str, setting: str) -> socket.socket:
    """Listen on LISTEN (`host:port`; port 0 is any free one), the value of SETTING, for a process that is given this.

    Raises StartupError, which names SETTING, if the address is not available.
    """
    listener = _bind(listen, setting)
    try:
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise StartupError(f"cannot listen on {listen}: {error.strerror}; set {setting} to another address") from None
    listener.settimeout(0)  # not blocking, for all who are passed it
    return listener


class PortLock:
    """Holds a TCP address without listening on it, so that no second server can share it unnoticed.

    Workers share a port by SO_REUSEPORT, and so would any other process that sets it: it would silently get a part
    of the connections. The lock therefore binds without that option, which the kernel refuses while any other socket
    holds the address, and only then opens the address to workers. The kernel releases it when the process ends,
    however it ends.
    """

    def __init__(self, listen: str, setting: str = "RATELIMIT_LISTEN") -> None:
        """Take LISTEN (`host:port`; port 0 is any free one), the value of SETTING.

        Raises StartupError, which names SETTING, if it is not available.
        """
        self._socket = _bind(listen, setting)
        # Without this a second lock, which sets it too, would be admitted.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.host: str = self._socket.getsockname()[0]
        self.port: int = self._socket.getsockname()[1]

    @property
    def address(self) -> str:
        """The address for workers to bind, with the real port: `127.0.0.1:50051`, `[::]:50051`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def close(self) -> None:
        """Release the address."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
