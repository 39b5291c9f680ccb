"""Streams that anybody may open and keep for as long as he likes: health watches and server reflection."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from ratelimit_service.errors import ResourceExhausted
from ratelimit_service.transport.grpcio.context import Context, Present

MAX_OF_CONNECTION: Final = 16
"""Streams of one connection, more than a client needs: one for the server, one for each service."""

MAX_OPEN: Final = 512
"""Streams of one process."""

_Status = health_pb2.HealthCheckResponse


class OpenStreams:
    """Counts the streams that are open."""

    def __init__(self, present: Present) -> None:
        """PRESENT finds whose connection a call came on."""
        self._present = present
        self._of_connection: Counter[str] = Counter()

    @contextmanager
    def opened(self, context: Context) -> Iterator[None]:
        """Count the stream of CONTEXT while the block lasts. Raises ResourceExhausted."""
        connection = self._present(context).peer_text
        if self._of_connection[connection] >= MAX_OF_CONNECTION or self._of_connection.total() >= MAX_OPEN:
            raise ResourceExhausted("too many streams are open; close some", reason="TOO_MANY_AT_ONCE")
        self._of_connection[connection] += 1
        try:
            yield
        finally:
            self._of_connection[connection] -= 1
            if not self._of_connection[connection]:
                del self._of_connection[connection]


class HealthService:
    """The health service of gRPC.

    The library's own writes to watchers under a lock that it needs to report a change: one watcher who does not read
    stops the reports to all others, and the drain.
    """

    def __init__(self, streams: OpenStreams) -> None:
        self._streams = streams
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._drained = False

    def report(self, service: str, status: int) -> None:
        """Report the status of SERVICE, and to those who watch it. Does nothing once `drain` was called."""
        if not self._drained and self._statuses.get(service) != status:
            self._statuses[service] = status
            self._notify()

    def drain(self) -> None:
        """Report every service as not serving, from now on."""
        self._drained = True
        self._statuses = dict.fromkeys(self._statuses, _Status.NOT_SERVING)
        self._notify()

    async def Check(  # noqa: N802 the library calls it by this name
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """The status of one service."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return _Status(status=status)

    async def List(  # noqa: N802
        self, _request: health_pb2.HealthListRequest, _context: Context
    ) -> health_pb2.HealthListResponse:
        """The statuses of all services."""
        return health_pb2.HealthListResponse(
            statuses={service: _Status(status=status) for service, status in self._statuses.items()}
        )

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:  # noqa: N802
        """The status of one service, and then each that it changes to; those that change back unseen are left out."""
        try:
            with self._streams.opened(context):
                reported = None
                while True:
                    changed = self._changed
                    status = self._statuses.get(request.service, _Status.SERVICE_UNKNOWN)
                    if status != reported:
                        reported = status
                        await context.write(_Status(status=status))
                    await changed.wait()
        except ResourceExhausted as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, error.message)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Reflection:
    """Server reflection, on so many streams."""

    def __init__(self, services: Sequence[str], streams: OpenStreams) -> None:
        self._described = reflection.aio.ReflectionServicer(services)
        self._streams = streams

    async def ServerReflectionInfo(  # noqa: N802
        self, request_iterator: AsyncIterable[reflection_pb2.ServerReflectionRequest], context: Context
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        """Answer the requests of one stream."""
        try:
            with self._streams.opened(context):
                async for response in self._described.ServerReflectionInfo(request_iterator, context):
                    yield response
        except ResourceExhausted as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, error.message)
