"""Methods with a stream of requests and a stream of responses."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from time import monotonic
from typing import Final, TypeVar

from ratelimit_service.api.authentication import UNDECIDED
from ratelimit_service.api.messages import MAX_MESSAGE, check_stream_headers
from ratelimit_service.api.open_streams import OpenStreams
from ratelimit_service.api.overload.fair_queue import Share
from ratelimit_service.api.rate_limit.streams import OpenStream, Streams, answer
from ratelimit_service.errors import ServiceError, Unavailable, release
from ratelimit_service.transport.envoy.admission import Method
from ratelimit_service.transport.envoy.drain import Drain
from ratelimit_service.transport.envoy.framing import (
    App,
    Event,
    FrameReader,
    ProtocolError,
    Receive,
    Scope,
    Send,
    body_of,
    check_deadline,
    deadline_of,
    frame,
    headers_of,
    presented_by,
)
from ratelimit_service.transport.envoy.responses import ResponseStream
from ratelimit_service.transport.envoy.unfinished import Wait

Item = TypeVar("Item")

GROUPS_AT_ONCE: Final = 1
"""Groups of messages that are answered at a time for the streams of one connection."""


def stream(method: Method, opened: Streams[Item], streams: OpenStreams, drain: Drain) -> App:
    """An application that has the messages of a stream answered that OPENED opens, those that arrived together at once.

    One group at a time, in order: meanwhile the next one accumulates in Envoy, also while the caller does not read its
    responses, until Envoy stops reading from the caller. STREAMS counts them, and ends some if there are too many.
    """
    admission = method.admission
    turns = Turns()

    async def respond(scope: Scope, receive: Receive, responses: ResponseStream) -> None:
        check_stream_headers(sum(len(name) + len(value) for name, value in scope["headers"]))
        headers = headers_of(scope)
        deadline = deadline_of(headers)
        presented = presented_by(scope, headers, certificates=admission.certificates)
        caller = await admission.admit(presented, deadline)
        with (
            admission.watching(presented) as revoked,
            streams.one(revoked) as used,
            turns.of(scope.get("client")) as turn,
            opened() as own,
        ):
            async with aclosing(
                groups_of(
                    receive,
                    headers.get(b"grpc-encoding"),
                    partial(_next, drain=drain, revoked=revoked, own=own, responses=responses),
                    partial(method.bounds.unfinished.begin, scope.get("client")),
                    own.max_group,
                )
            ) as groups:
                async for messages in groups:
                    used()
                    check_deadline(deadline)
                    if caller is UNDECIDED:
                        caller = await admission.admit(presented, deadline)
                    async with turn:
                        answers, error = await answer(own, messages, caller, deadline)
                    if answers:
                        await responses.write(b"".join(map(frame, answers)), revoked)
                    if error is not None:
                        raise error

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        began, responses = monotonic(), ResponseStream(send)
        try:
            method.bounds.overload.check_open(Share("", scope.get("client")))
            await respond(scope, receive, responses)
        except Exception as error:  # noqa: BLE001 the last place that can respond
            if isinstance(error, ServiceError):
                method.failures.report(error, method.name)
            code = await responses.fail(error, method.name)
            release(error)
        else:
            code = await responses.end()
        method.count(method.name, code, monotonic() - began)

    return handle


class Turns:
    """Whose turn it is among the streams of one connection: GROUPS_AT_ONCE of them decide at a time.

    The others are not read meanwhile, so that what a connection may have under way does not grow with its streams.
    """

    def __init__(self) -> None:
        self._of: dict[Hashable, tuple[asyncio.Semaphore, int]] = {}

    @contextmanager
    def of(self, connection: Hashable) -> Iterator[asyncio.Semaphore]:
        """The turns of a stream on CONNECTION, whatever identifies it: held by whoever decides."""
        turn, streams = self._of.get(connection) or (asyncio.Semaphore(GROUPS_AT_ONCE), 0)
        self._of[connection] = turn, streams + 1
        try:
            yield turn
        finally:
            turn, streams = self._of.pop(connection)
            if streams > 1:
                self._of[connection] = turn, streams - 1


async def groups_of(  # noqa: PLR0913  what a stream is read by
    receive: Receive,
    encoding: bytes | None,
    arrived: Callable[[Awaitable[Event]], Awaitable[Event]],
    begin: Callable[[], Wait],
    max_group: int,
    *,
    max_message: int = MAX_MESSAGE,
) -> AsyncGenerator[list[bytes], None]:
    """Yield the messages that have arrived, 1 to MAX_GROUP, until the caller has closed its side.

    They have MAX_MESSAGE bytes at most. A stream may be quiet for any time between two messages, but not within one,
    for which BEGIN begins to wait. Raises, after those before it, the error of a message or of the stream, and what
    ARRIVED raises while it waits.
    """
    frames = FrameReader(encoding, max_message)
    more = True
    while more:
        if frames.incomplete:
            with begin() as wait:
                messages: list[bytes] = []
                while more and not messages and frames.error is None:
                    rest = frames.incomplete
                    body, more = body_of(await arrived(wait.next(receive, rest)))
                    messages = frames.feed(body)
        else:
            body, more = body_of(await arrived(receive()))
            messages = frames.feed(body)
        for start in range(0, len(messages), max_group):
            yield messages[start : start + max_group]
        if frames.error is not None:
            raise frames.error
    if frames.incomplete:
        raise ProtocolError("the stream was closed in the middle of a message")


async def next_event(awaited: Awaitable[Event], *, drain: Drain, revoked: "asyncio.Future[None]") -> Event:
    """The next event of the stream. Raises Unavailable if the process drains first, and what REVOKED fails with."""
    event = asyncio.ensure_future(awaited)
    try:
        if not await drain.wait(event, revoked):
            raise _draining()
        return event.result()
    finally:
        _let_go(event)


async def _next(
    awaited: Awaitable[Event],
    *,
    drain: Drain,
    revoked: "asyncio.Future[None]",
    own: OpenStream[Item],
    responses: ResponseStream,
) -> Event:
    """The same. What the stream has to send by itself meanwhile is written to RESPONSES."""
    event = asyncio.ensure_future(awaited)
    try:
        while not await drain.wait(event, revoked, own.pending):
            if own.pending is not None and own.pending.done():
                await responses.write(frame(own.take()), revoked)
                continue
            raise _draining()
        return event.result()
    finally:
        _let_go(event)


def _draining() -> Unavailable:
    return Unavailable("this server is draining; open the stream again, another one will answer", reason="DRAINING")


def _let_go(event: "asyncio.Future[Event]") -> None:
    if isinstance(event, asyncio.Task):  # of ours; what Envoy's application was given is not cancelled
        event.cancel()
