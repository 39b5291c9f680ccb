"""The gRPC server behind the HTTP port: one of our own, on a socket on which nobody else can connect."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeAlias

import grpc
from google.rpc import status_pb2

from ratelimit_service.api.status import DETAILS_KEY, to_service_error, to_status
from ratelimit_service.errors import Code, DeadlineExceeded, ServiceError, Unavailable

MAX_RESPONSE: Final = 16 * 1024 * 1024
"""Bytes of a response. The pages of lists are bounded far below it."""

_MAX_RECONNECT_MS: Final = 1_000
"""Between two attempts to connect, while the server is replaced."""

Metadata: TypeAlias = Sequence[tuple[str, str]]


class Failed(Exception):
    """A call that failed: its gRPC status, with its details."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


class Backend:
    """Calls the server at a unix socket. Belongs to the running loop.

    One connection has so many calls in flight as the server allows, so there are several: however many wait there, such
    as those with wrong tokens, a further one is begun at once.
    """

    def __init__(self, socket: Path, calls: int) -> None:
        """SOCKET may be a link, which is followed when a connection is opened. CALLS is what one may have in flight."""
        self._target = f"unix:{socket}"
        self._calls = calls
        self._connections: list[_Connection] = []

    async def call(self, method: str, message: bytes, metadata: Metadata, seconds: float) -> bytes:
        """The response of METHOD, within so many SECONDS. Raises Failed. When it is cancelled, so is the call."""
        if seconds <= 0:  # the library sends such a call all the same, and the server may be faster
            raise Failed(to_status(_too_late(seconds)))
        connection = self._free()
        connection.in_flight += 1
        try:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = connection.channel.unary_unary(method)
            return await call(message, timeout=seconds, metadata=tuple(metadata))
        except grpc.aio.AioRpcError as error:
            raise Failed(_status_of(error, method, seconds)) from None
        finally:
            connection.in_flight -= 1

    async def close(self) -> None:
        """Close the connections, and end what is in flight."""
        for connection in self._connections:
            await connection.channel.close()

    def _free(self) -> "_Connection":
        """The first connection with room, so that those of a burst are left to themselves after it."""
        for connection in self._connections:
            if connection.in_flight < self._calls:
                return connection
        opened = _Connection(self._target)
        self._connections.append(opened)
        return opened


class _Connection:
    """One connection, opened when it is needed, and the number of calls on it."""

    def __init__(self, target: str) -> None:
        self.in_flight = 0
        self.channel = grpc.aio.insecure_channel(
            target,
            options=[
                ("grpc.use_local_subchannel_pool", 1),  # or all channels would share one connection
                ("grpc.max_receive_message_length", MAX_RESPONSE),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", _MAX_RECONNECT_MS),
                ("grpc.enable_http_proxy", 0),
            ],
        )


def _status_of(error: grpc.aio.AioRpcError, method: str, seconds: float) -> status_pb2.Status:
    """The status that the server sent, or one of ours for what the library found, without its words and our paths."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return to_status(_error_of(error, method, seconds))


def _error_of(error: grpc.aio.AioRpcError, method: str, seconds: float) -> ServiceError:
    code = error.code().value[0]
    if code == Code.DEADLINE_EXCEEDED:
        return _too_late(seconds)
    if code in {Code.UNAVAILABLE, Code.CANCELLED}:
        return Unavailable("what answers calls is being replaced; send it again", reason="DRAINING")
    return to_service_error(error, method)


def _too_late(seconds: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"the call was not answered within {seconds:g} seconds; allow it more time")
