"""Health and reflection as anybody may call them: streams are bounded by connection, and nobody's silence holds others.

The library's own health service writes to a watcher under the lock by which statuses are set: one that does not read
would keep every status as it is, and the server from draining.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from ratelimit_service.api.messages import MAX_MESSAGE, message_too_large, parse
from ratelimit_service.errors import DeadlineExceeded, Unavailable
from ratelimit_service.transport.grpcio.context import Context

MAX_WATCHES: Final = 1_000
"""Watches of health that one process keeps at a time, some 20 KiB each."""

MAX_REFLECTIONS: Final = 50
"""The same for streams of reflection, which last as long as a client lists methods."""

MAX_OF_CONNECTION: Final = 4
"""Watches, and streams of reflection, on one connection: a client needs one of either."""

REFLECTION_SECONDS: Final = 20.0
"""Seconds in which the next question has to come on a stream of reflection."""

_Status: TypeAlias = "health_pb2.HealthCheckResponse.ServingStatus.ValueType"


class _Bound:
    """Counts streams, and refuses those beyond a bound for all, and for one connection."""

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        self._of: Counter[str] = Counter()

    @contextmanager
    def stream(self, connection: str) -> Iterator[None]:
        """Serve one more stream until the block ends, on CONNECTION, whatever names it. Raises Unavailable."""
        if self._of[connection] >= MAX_OF_CONNECTION or self._of.total() >= self._most:
            raise Unavailable(
                f"more than {self._most} {self._what} are open, or {MAX_OF_CONNECTION} on this connection; close one",
                reason="TOO_MANY_AT_ONCE",
            )
        self._of[connection] += 1
        try:
            yield
        finally:
            self._of[connection] -= 1
            if not self._of[connection]:
                del self._of[connection]


class HealthService:
    """The statuses of the components of this server, which are few; nothing is kept of names that nobody serves."""

    def __init__(self) -> None:
        self._statuses: dict[str, _Status] = {}
        self._final = False
        self._changed = asyncio.Event()
        self._bound = _Bound("watches", MAX_WATCHES)

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

    async def watch(self, request: health_pb2.HealthCheckRequest, context: Context, connection: str) -> None:
        """Send the status of a component now and whenever it changes. Raises Unavailable."""
        component = request.service if request.service in self._statuses else None
        del request  # it may be long, and this may last
        with self._bound.stream(connection):
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
    """The library's answers about services and messages, for a bounded number of clients at a time."""

    _bound = _Bound("streams of reflection", MAX_REFLECTIONS)

    async def reflect(self, context: Context, connection: str) -> None:
        """Answer the questions of one stream on CONNECTION. Raises InvalidArgument, Unavailable, DeadlineExceeded."""
        with self._bound.stream(connection):
            async for response in self.ServerReflectionInfo(_questions(context), context):
                await context.write(response.SerializeToString())


async def _questions(context: Context) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    while True:
        try:
            async with asyncio.timeout(REFLECTION_SECONDS):
                data = await context.read()
        except TimeoutError:
            raise DeadlineExceeded(f"no question came for {REFLECTION_SECONDS:.0f} seconds; begin again") from None
        if not isinstance(data, bytes):
            return
        if len(data) > MAX_MESSAGE:
            raise message_too_large(len(data))
        yield parse(data, reflection_pb2.ServerReflectionRequest)
