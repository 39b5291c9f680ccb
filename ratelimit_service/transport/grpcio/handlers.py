"""Between the bytes on the wire and the services: reading, checking and writing messages."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Final, TypeVar, cast

from ratelimit_service.api.authentication import UNDECIDED, Admission, Caller, share_of
from ratelimit_service.api.envoy_rlqs.reader import MAX_REPORT
from ratelimit_service.api.envoy_rlqs.service import EnvoyQuotaService, QuotaStream
from ratelimit_service.api.messages import MAX_MESSAGE, check_stream_headers, message_too_large, missing_message
from ratelimit_service.api.open_streams import OpenStreams
from ratelimit_service.api.overload.heavy import HEAVY_BYTES, HeavyCalls
from ratelimit_service.api.rate_limit.streams import Streams, answer
from ratelimit_service.api.wire import Serializable
from ratelimit_service.transport.grpcio.context import Context, deadline_of, size_of_headers
from ratelimit_service.transport.grpcio.interceptors import Call, Handler
from ratelimit_service.transport.grpcio.unfinished import Unfinished

MAX_WAITING_BYTES: Final = MAX_MESSAGE
"""Bytes of messages that wait on a stream, beyond which no more are read of it: 256 checks have half of that."""

Item = TypeVar("Item")
Request = TypeVar("Request")


def unary(
    read: Callable[[bytes], Request],
    method: Callable[[Request, Caller, float | None], Awaitable[Serializable]],
    unfinished: Unfinished,
    max_message: int = MAX_MESSAGE,
    heavy: HeavyCalls | None = None,
) -> Handler:
    """A handler that passes what READ makes of the call's one message, of at most MAX_MESSAGE bytes, to METHOD.

    UNFINISHED waits for the message. The deadline is checked when the message is there, before anything is charged.
    With HEAVY, calls with a large message take turns.
    """

    async def handle(call: Call) -> bytes:
        data = await unfinished.read(call.context)
        if not isinstance(data, bytes):
            raise missing_message(call.method)
        deadline = deadline_of(call.context)
        if heavy is not None and len(_checked(data, max_message)) >= HEAVY_BYTES:
            async with heavy.turn(share_of(call.caller, call.presented.peer), deadline):
                return (await method(read(data), call.caller, deadline)).SerializeToString()
        request = read(_checked(data, max_message))
        return (await method(request, call.caller, deadline)).SerializeToString()

    return handle


def stream(opened: Streams[Item], streams: OpenStreams, admission: Admission) -> Handler:
    """A handler that has the messages of a stream answered that OPENED opens, those that arrived meanwhile together.

    Writing waits while the caller does not read, and so do the answers; what the stream holds meanwhile is bounded by
    MAX_WAITING_BYTES and a message. ADMISSION, by which the stream was admitted, also ends it, even then, when its
    caller's token is revoked. STREAMS counts them, and ends some if there are too many.
    """

    async def messages(context: Context) -> AsyncIterator[bytes]:
        while isinstance(data := await context.read(), bytes):  # else it is EOF
            yield _checked(data, MAX_MESSAGE)

    async def handle(call: Call) -> bytes:
        context = call.context
        check_stream_headers(size_of_headers(context))
        deadline = deadline_of(context)
        begun = False
        with admission.watching(call.presented) as revoked, streams.one(revoked) as used, opened() as own:
            arrived = in_groups(
                messages(context),
                max_size=own.max_group,
                max_bytes=MAX_WAITING_BYTES,
                stop=revoked,
                pending=lambda: own.pending,
            )
            async with aclosing(arrived) as groups:
                async for group in groups:
                    error = None
                    if group:
                        used()
                        if call.caller is UNDECIDED:
                            call.caller = await admission.admit(call.presented, deadline)
                        responses, error = await answer(own, group, call.caller, deadline)
                        group.clear()  # nothing of it is kept while the caller does not read
                    else:
                        responses = [own.take()]
                    if responses and not begun:
                        # Apart from the first response: the library sends no status after a write that was interrupted
                        # before it knew that these had been sent.
                        await context.send_initial_metadata(())
                        begun = True
                    with _interrupted_by(revoked):
                        for response in responses:
                            await context.write(response)
                    if error is not None:
                        raise error
        return b""

    return handle


def quota_stream(service: EnvoyQuotaService, admission: Admission) -> Handler:
    """A handler that passes the reports of a stream to SERVICE, and sends what that assigns.

    ADMISSION, by which the stream was admitted, also ends it when its caller's token is revoked.
    """

    async def handle(call: Call) -> bytes:
        context = call.context
        check_stream_headers(size_of_headers(context))
        with admission.watching(call.presented) as ended, service.open(call.caller) as stream:
            await context.send_initial_metadata(())  # apart from the first response, as on a stream of checks
            writing = asyncio.create_task(_write_assignments(stream, context))
            try:
                with _interrupted_by(ended):
                    while isinstance(data := await context.read(), bytes):  # else it is EOF
                        if writing.done():
                            writing.result()
                        await stream.report([_checked(data, MAX_REPORT)], ended)
            finally:
                writing.cancel()
                await asyncio.wait((writing,))
                if not writing.cancelled():
                    writing.exception()  # retrieved: the caller has gone, which the reader finds out, too
        return b""

    return handle


async def _write_assignments(stream: QuotaStream, context: Context) -> None:
    while True:
        await context.write(await stream.responses())
        await stream.pause()


@contextmanager
def _interrupted_by(ended: "asyncio.Future[None]") -> Iterator[None]:
    """Interrupt the block when ENDED fails, and raise what it has failed with."""
    task = cast("asyncio.Task[object]", asyncio.current_task())
    within, interrupted = True, False

    def interrupt(_ended: "asyncio.Future[None]") -> None:
        nonlocal interrupted
        if within:
            interrupted = task.cancel()

    ended.add_done_callback(interrupt)
    try:
        yield
    except asyncio.CancelledError:
        if interrupted and not task.uncancel():  # else the caller has gone as well
            ended.result()
        raise
    finally:
        within = False
        ended.remove_done_callback(interrupt)


class _Arrived:
    """Items that have arrived and are not taken yet, of which reading stops while there is no room for more."""

    def __init__(self, max_size: int, max_bytes: int) -> None:
        self._max_size = max_size
        self._max_bytes = max_bytes
        self._items: list[bytes] = []
        self._bytes = 0
        self._taken = asyncio.Event()
        self.ended = False
        """Whether no more arrive."""
        self.noticed = asyncio.Event()
        """Set when something may have changed."""

    def __bool__(self) -> bool:
        return bool(self._items)

    async def read(self, items: AsyncIterator[bytes]) -> None:
        """Read ITEMS."""
        try:
            async for item in items:
                self._items.append(item)
                self._bytes += len(item)
                self.noticed.set()
                while len(self._items) >= self._max_size or self._bytes >= self._max_bytes:
                    self._taken.clear()
                    await self._taken.wait()
        finally:
            self.ended = True
            self.noticed.set()

    def take(self) -> list[bytes]:
        """All of them."""
        taken = self._items.copy()
        self._items.clear()
        self._bytes = 0
        self._taken.set()
        return taken

    async def wait(self, pending: "asyncio.Future[None] | None") -> bool:
        """Wait until there are some, there will be no more, or PENDING is done. Returns whether it is."""
        while not self._items and not self.ended and (pending is None or not pending.done()):
            self.noticed.clear()
            await self.noticed.wait()
        return pending is not None and pending.done()


async def in_groups(
    items: AsyncIterator[bytes],
    *,
    max_size: int,
    max_bytes: int,
    stop: "asyncio.Future[None] | None" = None,
    pending: "Callable[[], asyncio.Future[None] | None]" = lambda: None,
) -> AsyncGenerator[list[bytes], None]:
    """Yield what has arrived since the last group, 1 to MAX_SIZE items, in order, without waiting for more.

    Reading stops while MAX_SIZE items are waiting, or MAX_BYTES in them, which the last one may exceed, so that the
    transport applies back pressure to a fast sender. An error of ITEMS is raised after all that came before it. What
    STOP fails with is raised at once. An empty group says that what PENDING returns is done: it is asked before each.
    """
    arrived = _Arrived(max_size, max_bytes)
    reader = asyncio.create_task(arrived.read(items))
    if stop is not None:
        stop.add_done_callback(lambda _stop: reader.cancel())
    known = None
    try:
        while True:
            unasked = pending()
            if unasked is not None and unasked is not known:
                known = unasked
                unasked.add_done_callback(lambda _unasked: arrived.noticed.set())
            has_unasked = await arrived.wait(unasked)
            if stop is not None and stop.done():
                stop.result()
            if not has_unasked and not arrived:
                break
            yield [] if has_unasked else arrived.take()
        await reader
    finally:
        reader.cancel()
        await asyncio.wait((reader,))
        if not reader.cancelled():
            reader.exception()  # retrieved, or asyncio would warn: its caller has gone


def _checked(data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise message_too_large(len(data), limit)
    return data
