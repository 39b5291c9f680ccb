"""Between the bytes on the wire and the services: reading, checking and writing messages."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from ratelimit_service.api.authentication import UNDECIDED, Admission, Caller, share_of
from ratelimit_service.api.messages import MAX_MESSAGE, check_stream_headers, message_too_large, missing_message
from ratelimit_service.api.open_streams import OpenStreams
from ratelimit_service.api.overload.heavy import HEAVY_BYTES, HeavyCalls
from ratelimit_service.api.rate_limit.reader import MAX_BATCH
from ratelimit_service.api.rate_limit.service import RateLimitService
from ratelimit_service.api.wire import Serializable
from ratelimit_service.transport.grpcio.context import Context, deadline_of, size_of_headers
from ratelimit_service.transport.grpcio.interceptors import Call, Handler
from ratelimit_service.transport.grpcio.unfinished import Unfinished

Request = TypeVar("Request")
T = TypeVar("T")


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


def stream(service: RateLimitService, admission: Admission) -> Handler:
    """A handler that has SERVICE decide the checks of a stream, those that arrived meanwhile together, in order.

    Writing waits while the caller does not read, and so do the decisions. ADMISSION, by which the stream was admitted,
    also ends it when its caller's token is revoked.
    """
    read, decide = service.reader.stream, service.decide_group
    streams = OpenStreams()

    async def messages(context: Context) -> AsyncIterator[bytes]:
        while isinstance(data := await context.read(), bytes):  # else it is EOF
            yield _checked(data, MAX_MESSAGE)

    async def handle(call: Call) -> bytes:
        context = call.context
        check_stream_headers(size_of_headers(context))
        deadline = deadline_of(context)
        with admission.watching(call.presented) as revoked, streams.one(revoked) as used:
            async with aclosing(in_groups(messages(context), max_size=MAX_BATCH, stop=revoked)) as groups:
                async for group in groups:
                    used()
                    if call.caller is UNDECIDED:
                        call.caller = await admission.admit(call.presented, deadline)
                    checks, error = read(group)
                    for response in await decide(checks, call.caller, deadline):
                        await context.write(response)
                    if error is not None:
                        raise error
        return b""

    return handle


async def in_groups(
    items: AsyncIterator[T], *, max_size: int, stop: "asyncio.Future[None] | None" = None
) -> AsyncGenerator[list[T], None]:
    """Yield what has arrived since the last group, 1 to MAX_SIZE items, in order, without waiting for more.

    Reading stops while MAX_SIZE items are waiting, so that the transport applies back pressure to a fast sender. An
    error of ITEMS is raised after all that came before it. What STOP fails with is raised at once.
    """
    waiting: list[T] = []
    changed = asyncio.Condition()
    ended = False

    async def read() -> None:
        nonlocal ended
        try:
            async for item in items:
                async with changed:
                    await changed.wait_for(lambda: len(waiting) < max_size)
                    waiting.append(item)
                    changed.notify_all()
        finally:
            ended = True
            async with changed:
                changed.notify_all()

    reader = asyncio.create_task(read())
    if stop is not None:
        stop.add_done_callback(lambda _stop: reader.cancel())
    try:
        while True:
            async with changed:
                await changed.wait_for(lambda: waiting or ended)
                if stop is not None and stop.done():
                    stop.result()
                group = waiting.copy()
                waiting.clear()
                changed.notify_all()
            if not group:
                break
            yield group
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
