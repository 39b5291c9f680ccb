"""The public port, exclusive to this server, however many workers share it."""

import socket
from types import TracebackType
from typing import Self

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


class PortLock:
    """Holds a TCP address without listening on it, so that no second server can share it unnoticed.

    Workers share a port by SO_REUSEPORT, and so would any other process that sets it: it would silently get a part
    of the connections. The lock therefore binds without that option, which the kernel refuses while any other socket
    holds the address, and only then opens the address to workers. The kernel releases it when the process ends,
    however it ends.
    """

    def __init__(self, listen: str) -> None:
        """Take LISTEN (`host:port`; port 0 is any free one). Raises StartupError if it is not available."""
        host, port = split_address(listen)
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        except OSError as error:
            raise StartupError(
                f"cannot listen on {listen}: the host {host!r} is not known ({error.strerror})"
            ) from None
        self._socket = socket.socket(family, kind, protocol)
        try:
            # Only for the bind: connections of an earlier server that linger in TIME_WAIT must not prevent it.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(address)
        except OSError as error:
            self._socket.close()
            raise StartupError(
                f"cannot listen on {listen}: {error.strerror}; stop the process that holds the port, "
                "or set RATELIMIT_LISTEN to another one"
            ) from None
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
