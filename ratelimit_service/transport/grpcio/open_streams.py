"""Health and reflection as anybody may call them: the streams of both are bounded, and nobody's silence holds others.

The library's own health service writes to a watcher under the lock by which statuses are set: one that does not read
would keep every status as it is, and the server from draining.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from ratelimit_service.transport.grpcio.context import Context

MAX_WATCHES: Final = 1_000
"""Watches of health that one process keeps at a time, some 20 KiB each. One more is RESOURCE_EXHAUSTED."""

MAX_REFLECTIONS: Final = 50
"""The same for streams of reflection, which last as long as a client lists methods."""

_Status: TypeAlias = "health_pb2.HealthCheckResponse.ServingStatus.ValueType"


class _Bound:
    """Counts streams, and refuses those beyond a bound."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open = 0

    @contextmanager
    def stream(self) -> Iterator[bool]:
        """Whether one more stream may be served until the block ends."""
        self._open += 1
        try:
            yield self._open <= self._most
        finally:
            self._open -= 1


class HealthService:
    """The statuses of the components of this server, which are few; nothing is kept of names that nobody serves."""

    def __init__(self) -> None:
        self._statuses: dict[str, _Status] = {}
        self._final = False
        self._changed = asyncio.Event()
        self._bound = _Bound(MAX_WATCHES)

    def set(self, component: str, status: _Status) -> None:
        """Set the status of a component. Ignored once the server drains."""
        if not self._final and self._statuses.get(component) != status:
            self._statuses[component] = status
            self._wake()

    def drain(self) -> None:
        """Report every component as not serving, for good."""
        self._final = True
        self._statuses = dict.fromkeys(self._statuses, health_pb2.HealthCheckResponse.NOT_SERVING)
        self._wake()

    async def check(self, request: health_pb2.HealthCheckRequest, context: Context) -> bytes:
        """Return the status of a component; NOT_FOUND if there is no such component."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service; send the name of one, or an empty one")
        return _response(status)

    async def watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """Send the status of a component now and whenever it changes."""
        component = request.service if request.service in self._statuses else None
        del request  # it may be long, and this may last
        with self._bound.stream() as admitted:
            if not admitted:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {MAX_WATCHES} watches are open")
            sent = None
            while True:
                changed = self._changed
                unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
                status = unknown if component is None else self._statuses[component]
                if status != sent:
                    await context.write(_response(status))
                    sent = status
                await changed.wait()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _response(status: _Status) -> bytes:
    return bytes(health_pb2.HealthCheckResponse(status=status).SerializeToString())


class ReflectionService(reflection.aio.ReflectionServicer):  # type: ignore[misc]  # the library has no types for it
    """The library's reflection, for a bounded number of clients at a time."""

    _bound = _Bound(MAX_REFLECTIONS)

    async def ServerReflectionInfo(  # noqa: N802  the library's
        self,
        request_iterator: AsyncIterable[Any],
        context: Any,  # noqa: ANN401
    ) -> AsyncIterator[Any]:
        """Answer questions about services and messages."""
        with self._bound.stream() as admitted:
            if not admitted:
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {MAX_REFLECTIONS} streams of reflection are open"
                )
            async for response in super().ServerReflectionInfo(request_iterator, context):
                yield response
