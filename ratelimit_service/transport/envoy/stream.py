"""Methods with a stream of requests and a stream of responses."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ratelimit_service.api.authentication import UNDECIDED
from ratelimit_service.api.overload.fair_queue import Share
from ratelimit_service.api.rate_limit.reader import MAX_BATCH
from ratelimit_service.api.rate_limit.service import RateLimitService
from ratelimit_service.errors import Unavailable
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


def stream(method: Method, service: RateLimitService, drain: Drain) -> App:
    """An application that has SERVICE decide the checks of a stream, those that arrived together at once.

    One group at a time, in order: meanwhile the next one accumulates in Envoy, also while the caller does not read its
    responses, until Envoy stops reading from the caller.
    """
    read, decide = service.reader.stream, service.decide_group
    admission = method.admission

    async def respond(scope: Scope, receive: Receive, responses: ResponseStream) -> None:
        headers = headers_of(scope)
        deadline = deadline_of(headers)
        presented = presented_by(scope, headers, certificates=admission.certificates)
        caller = await admission.admit(presented, deadline)
        with admission.watching(presented) as revoked:
            async with aclosing(_groups(receive, headers.get(b"grpc-encoding"), drain, revoked)) as groups:
                async for messages in groups:
                    check_deadline(deadline)
                    if caller is UNDECIDED:
                        caller = await admission.admit(presented, deadline)
                    checks, error = read(messages)
                    if checks:
                        await responses.write(b"".join(map(frame, await decide(checks, caller, deadline))))
                    if error is not None:
                        raise error

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        responses = ResponseStream(send)
        try:
            method.overload.check_open(Share("", scope.get("client")))
            await respond(scope, receive, responses)
        except Exception as error:  # noqa: BLE001 the last place that can respond
            code = await responses.fail(error, method.name)
        else:
            code = await responses.end()
        method.count(method.name, code)

    return handle


async def _groups(
    receive: Receive, encoding: bytes | None, drain: Drain, revoked: "asyncio.Future[None]"
) -> AsyncGenerator[list[bytes], None]:
    """Yield the messages that have arrived, 1 to MAX_BATCH, until the caller has closed its side.

    Raises, after those before it, the error of a message or of the stream, Unavailable if the process drains, and what
    REVOKED has failed with.
    """
    frames = FrameReader(encoding)
    more = True
    while more:
        body, more = body_of(await _next(receive, drain, revoked))
        messages = frames.feed(body)
        for start in range(0, len(messages), MAX_BATCH):
            yield messages[start : start + MAX_BATCH]
        if frames.error is not None:
            raise frames.error
    if frames.incomplete:
        raise ProtocolError("the stream was closed in the middle of a message")


async def _next(receive: Receive, drain: Drain, revoked: "asyncio.Future[None]") -> Event:
    """The next event of the stream. Raises Unavailable if the process drains first, and what REVOKED fails with."""
    event = asyncio.ensure_future(receive())
    if not await drain.wait(event, revoked):
        raise Unavailable("this server is draining; open the stream again, another one will answer", reason="DRAINING")
    return event.result()
