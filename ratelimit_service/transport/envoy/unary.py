"""Methods with one request and one response."""

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final, TypeAlias, TypeVar

from ratelimit_service.api.authentication import ANONYMOUS, Caller, share_of
from ratelimit_service.api.lasting import Lasting
from ratelimit_service.api.messages import missing_message
from ratelimit_service.api.overload.fair_queue import Generation
from ratelimit_service.api.reserving import Reserving
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
from ratelimit_service.transport.envoy.unfinished import MAX_BARE, GivenUp

Request = TypeVar("Request")

KEEP: Final = "http.response.keep"
"""An event after a response, and the extension that takes it: until a time it may be given to the same call again."""

Call: TypeAlias = Callable[[Request, Caller, float | None], Awaitable[Serializable]]
"""Answers a request of a caller who waits until the deadline, a monotonic time in seconds; None: for any time."""


def unary(  # noqa: C901 most calls take no branch, and a function of its own for each would cost them all
    method: Method,
    read: Callable[[bytes], Request],
    call: Call[Request],
) -> App:
    """An application that passes the request that READ finds in the message to CALL, and sends what that returns."""
    name, admission, count = method.name, method.admission, method.count
    is_open, certificates = admission.is_open, admission.certificates
    end, heavy, heavy_from = method.bounds.overload.end, method.bounds.overload.heavy, method.heavy_from
    bare = method.bounds.bare
    waiting = bare.waiting

    async def respond(scope: Scope, receive: Receive, send: Send, began: float) -> Serializable:
        headers = headers_of(scope)
        deadline = deadline_of(headers, scope.get("came"))
        # Envoy does not cancel a call that is abandoned: it reports that here, and everything below runs without
        # suspending until the call has joined a batch (except for a token that is not cached).
        if len(waiting) >= MAX_BARE:
            bare.give_up(began)
        waiting[receive] = (began, send, name)
        event = await receive()
        if waiting.pop(receive, None) is None:
            raise GivenUp
        body, more = first = body_of(event)
        data = None if more else single_message(body)
        if data is None:
            data = await _gather(method, scope, receive, first, headers.get(b"grpc-encoding"))
        if is_open and headers.get(b"authorization") is None:
            caller = ANONYMOUS
        else:
            caller = await admission.admit(presented_by(scope, headers, certificates=certificates), deadline)
        if len(data) >= heavy_from:
            async with heavy.turn(share_of(caller, scope.get("client")), deadline):
                check_deadline(deadline)
                return await call(read(data), caller, deadline)
        request = read(data)
        check_deadline(deadline)
        return await call(request, caller, deadline)

    async def handle(scope: Scope, receive: Receive, send: Send, generation: Generation, waited: float) -> None:
        # A call that crosses whole waits for the event loop before it runs, and perhaps never after: that is the queue.
        began = None if waited else scope.get("whole")
        began, given_up, response = monotonic() if began is None else began, False, None
        try:
            response = await respond(scope, receive, send, began)
            framed = frame(response.SerializeToString())
        except Exception as error:  # noqa: BLE001 the last place that can respond
            given_up = isinstance(error, GivenUp)
            code = await respond_to(error, send, method)
        else:
            code = await send_response(send, framed)
        took = monotonic() - began
        end(generation, took if code is Code.OK else None)
        if code is Code.CANCELLED and not given_up:  # what was given up cost next to nothing
            abandon(method, response, scope)
        count(name, code, took + waited)
        if isinstance(response, Lasting) and code is Code.OK:
            await keep(response, scope, send, method)

    return admitted(method, handle)


def abandon(method: Method, response: Serializable | None, scope: Scope) -> None:
    """Count a call whose caller had gone before its RESPONSE (None: there was none yet), and end what that reserves."""
    method.bounds.overload.count_wasted(scope.get("client"))
    if isinstance(response, Reserving):
        response.abandon()


async def keep(response: Lasting, scope: Scope, send: Send, method: Method) -> None:
    """Have RESPONSE, which was sent, given again to the same call for as long as it lasts, where that is possible."""

    def count_again(times: int) -> None:
        response.count(times)
        method.count(method.name, Code.OK, 0.0, times)

    if KEEP in scope.get("extensions", ()):
        await send({"type": KEEP, "until": response.until, "count": count_again})


async def respond_to(error: Exception, send: Send, method: Method) -> Code:
    """Respond with ERROR, or with what METHOD has in place of it. Returns the code that the caller receives."""
    message = method.fallback(error) if isinstance(error, ServiceError) else None
    if message is not None:
        code = await send_response(send, frame(message))
    else:
        if isinstance(error, ServiceError):
            method.failures.report(error, method.name)
        code = await send_error(send, error, method.name)
    release(error)
    return code


async def _gather(
    method: Method, scope: Scope, receive: Receive, first: tuple[bytes, bool], encoding: bytes | None
) -> bytes:
    """The message of a call of which the FIRST part has arrived, once the caller has closed its side.

    What follows the message is ignored, as by grpc-core. Some clients close their side with a frame of its own; until
    that comes, a message that is whole is held like one that is not.
    """
    body, more = first
    frames = FrameReader(encoding)
    message = _first(frames, body)
    with method.bounds.unfinished.begin(scope.get("client")) as wait:
        while more:
            held = frames.incomplete + (0 if message is None else len(message))
            body, more = body_of(await wait.next(receive, held))
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
