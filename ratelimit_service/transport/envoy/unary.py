"""Methods with one request and one response."""

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

from ratelimit_service.api.authentication import ANONYMOUS, Caller
from ratelimit_service.api.messages import missing_message
from ratelimit_service.api.overload.fair_queue import Generation
from ratelimit_service.api.wire import Serializable
from ratelimit_service.errors import Code, ServiceError, release
from ratelimit_service.transport.envoy.admission import Method, admitted
from ratelimit_service.transport.envoy.framing import (
    App,
    FrameReader,
    Receive,
    Scope,
    Send,
    body_of,
    check_deadline,
    deadline_of,
    frame,
    headers_of,
    presented_by,
    single_message,
)
from ratelimit_service.transport.envoy.responses import send_error, send_response
from ratelimit_service.transport.envoy.unfinished import GivenUp

Request = TypeVar("Request")


def unary(
    method: Method,
    read: Callable[[bytes], Request],
    call: Callable[[Request, Caller, float | None], Awaitable[Serializable]],
) -> App:
    """An application that passes the request that READ finds in the message to CALL, and sends what that returns."""
    name, admission, count = method.name, method.admission, method.count
    is_open, certificates = admission.is_open, admission.certificates
    end, first_event = method.bounds.overload.end, method.bounds.bare.first

    async def respond(scope: Scope, receive: Receive, send: Send, began: float) -> bytes:
        headers = headers_of(scope)
        deadline = deadline_of(headers)
        # Envoy does not cancel a call that is abandoned: it reports that here, and everything below runs without
        # suspending until the call has joined a batch (except for a token that is not cached).
        body, more = first = body_of(await first_event(receive, send, name, began))
        data = None if more else single_message(body)
        if data is None:
            data = await _gather(method, scope, receive, first, headers.get(b"grpc-encoding"))
        if is_open and headers.get(b"authorization") is None:
            caller = ANONYMOUS
        else:
            caller = await admission.admit(presented_by(scope, headers, certificates=certificates), deadline)
        request = read(data)
        check_deadline(deadline)
        return frame((await call(request, caller, deadline)).SerializeToString())

    async def handle(scope: Scope, receive: Receive, send: Send, generation: Generation) -> None:
        began, given_up = monotonic(), False
        try:
            framed = await respond(scope, receive, send, began)
        except Exception as error:  # noqa: BLE001 the last place that can respond
            given_up = isinstance(error, GivenUp)
            message = method.fallback(error) if isinstance(error, ServiceError) else None
            code = await (send_error(send, error, name) if message is None else send_response(send, frame(message)))
            release(error)
        else:
            code = await send_response(send, framed)
        if code is Code.OK:
            end(generation, monotonic() - began)
        else:
            end(generation, None)
            if code is Code.CANCELLED and not given_up:  # which cost next to nothing
                method.bounds.overload.count_wasted(scope.get("client"))
        count(name, code)

    return admitted(method, handle)


async def _gather(
    method: Method, scope: Scope, receive: Receive, first: tuple[bytes, bool], encoding: bytes | None
) -> bytes:
    """The message of a call of which the FIRST part has arrived, once the caller has closed its side.

    What follows the message is ignored, as by grpc-core.
    """
    body, more = first
    frames = FrameReader(encoding)
    message = _first(frames, body)
    if message is not None and more:  # some clients close their side with a frame of its own
        _, more = body_of(await receive())
    with method.bounds.unfinished.begin(scope.get("client")) as wait:
        while more:
            body, more = body_of(await wait.next(receive, frames.incomplete))
            if message is None:
                message = _first(frames, body)
    if message is None:
        raise missing_message(method.name)
    return message


def _first(frames: FrameReader, body: bytes) -> bytes | None:
    messages = frames.feed(body)
    if messages:
        return messages[0]
    if frames.error is not None:
        raise frames.error
    return None
