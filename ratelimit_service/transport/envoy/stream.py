"""Methods with a stream of requests and a stream of responses."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final, TypeAlias, TypeVar

from ratelimit_service.api.authentication import Caller
from ratelimit_service.errors import InvalidArgument, Unavailable
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
)
from ratelimit_service.transport.envoy.responses import ResponseStream
from ratelimit_service.transport.envoy.unary import Method

MAX_GROUP: Final = 256
"""Maximum messages that are decided together."""

Request = TypeVar("Request")
ReadGroup: TypeAlias = Callable[[Sequence[bytes]], tuple[Sequence[Request], InvalidArgument | None]]
"""Reads messages up to the first that is malformed, and returns its error."""
CallGroup: TypeAlias = Callable[[Sequence[Request], Caller], Awaitable[Sequence[bytes]]]


def stream(method: Method, read: ReadGroup[Request], call: CallGroup[Request], drain: Drain) -> App:
    """An application that passes the requests that READ finds in what has arrived to CALL, and sends its responses.

    One group at a time, in order: meanwhile the next one accumulates in Envoy, also while the caller does not read its
    responses, until Envoy stops reading from the caller.
    """

    async def respond(scope: Scope, receive: Receive, responses: ResponseStream) -> None:
        headers = headers_of(scope)
        deadline = deadline_of(headers)
        caller = await method.admission.admit(headers.get(b"authorization"))
        async with aclosing(_groups(receive, headers.get(b"grpc-encoding"), drain)) as groups:
            async for messages in groups:
                check_deadline(deadline)
                requests, error = read(messages)
                if requests:
                    await responses.write(b"".join(map(frame, await call(requests, caller))))
                if error is not None:
                    raise error

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        responses = ResponseStream(send)
        try:
            await respond(scope, receive, responses)
        except Exception as error:  # noqa: BLE001 the last place that can respond
            code = await responses.fail(error, method.name)
        else:
            code = await responses.end()
        method.count(method.name, code)

    return handle


async def _groups(receive: Receive, encoding: bytes | None, drain: Drain) -> AsyncGenerator[list[bytes], None]:
    """Yield the messages that have arrived, 1 to MAX_GROUP, until the caller has closed its side.

    Raises, after those before it, the error of a message or of the stream, and Unavailable if the process drains.
    """
    frames = FrameReader(encoding)
    more = True
    while more:
        body, more = body_of(await _next(receive, drain))
        messages = frames.feed(body)
        for start in range(0, len(messages), MAX_GROUP):
            yield messages[start : start + MAX_GROUP]
        if frames.error is not None:
            raise frames.error
    if frames.incomplete:
        raise ProtocolError("the stream was closed in the middle of a message")


async def _next(receive: Receive, drain: Drain) -> Event:
    """The next event of the stream. Raises Unavailable if the process drains first."""
    event = asyncio.ensure_future(receive())
    if not await drain.wait(event):
        raise Unavailable("this server is draining; open the stream again, another one will answer", reason="DRAINING")
    return event.result()
