"""Methods with one request and one response."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import TypeAlias, TypeVar

from ratelimit_service.api.authentication import ANONYMOUS, Admission, Caller
from ratelimit_service.api.fallback import Fallback, no_fallback
from ratelimit_service.api.messages import missing_message
from ratelimit_service.api.overload.control import OVERLOADED, OverloadControl
from ratelimit_service.api.overload.fair_queue import Generation, Turn
from ratelimit_service.api.wire import Serializable
from ratelimit_service.errors import Code, ServiceError
from ratelimit_service.transport.envoy.framing import (
    App,
    FrameReader,
    Receive,
    Scope,
    Send,
    body_of,
    check_deadline,
    deadline_of,
    expected_deadline,
    frame,
    headers_of,
    presented_by,
    single_message,
)
from ratelimit_service.transport.envoy.responses import Refusal, send_error, send_response

Count: TypeAlias = Callable[[str, Code], None]
"""Counts one call, by full method name and the code that its caller received."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method that is served: its full name, who may call it, where calls are counted, what replaces errors."""

    name: str
    admission: Admission
    count: Count
    overload: OverloadControl
    fallback: Fallback = no_fallback


Request = TypeVar("Request")


def unary(
    method: Method,
    read: Callable[[bytes], Request],
    call: Callable[[Request, Caller, float | None], Awaitable[Serializable]],
) -> App:
    """An application that passes the request that READ finds in the message to CALL, and sends what that returns."""
    name, admission, count = method.name, method.admission, method.count
    token_required = admission.token_required
    begin, end = method.overload.begin, method.overload.end
    refusal = Refusal(OVERLOADED, method.fallback(OVERLOADED), name)

    async def respond(scope: Scope, receive: Receive) -> bytes:
        headers = headers_of(scope)
        deadline = deadline_of(headers)
        # Envoy does not cancel a call that is abandoned: it reports that here, and everything below runs without
        # suspending until the call has joined a batch (except for a token that is not cached).
        data = await _read_message(receive, headers.get(b"grpc-encoding"), name)
        authorization = headers.get(b"authorization")
        if authorization is None and not token_required:
            caller = ANONYMOUS
        else:
            caller = await admission.admit(presented_by(scope, authorization), deadline)
        request = read(data)
        check_deadline(deadline)
        return frame((await call(request, caller, deadline)).SerializeToString())

    async def handle(scope: Scope, receive: Receive, send: Send, generation: Generation) -> None:
        began = monotonic()
        try:
            framed = await respond(scope, receive)
        except Exception as error:  # noqa: BLE001 the last place that can respond
            message = method.fallback(error) if isinstance(error, ServiceError) else None
            code = await (send_error(send, error, name) if message is None else send_response(send, frame(message)))
        else:
            code = await send_response(send, framed)
        if code is Code.OK:
            end(generation, monotonic() - began)
        else:
            end(generation, None)
            if code is Code.CANCELLED:
                method.overload.count_wasted(scope.get("client"))
        count(name, code)

    async def wait(turn: Turn, scope: Scope, receive: Receive, send: Send) -> None:
        generation = await turn
        if generation is None:
            count(name, refusal.code)
            await refusal.send(send)
        else:
            await handle(scope, receive, send, generation)

    def admit(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Before anything is read of a call, and before it has a task of its own."""
        generation = begin()
        if generation is not None:
            return handle(scope, receive, send, generation)
        turn = _queued(method, scope)
        if turn is not None:
            return wait(turn, scope, receive, send)
        count(name, refusal.code)
        return refusal.send(send)

    return admit


def _queued(method: Method, scope: Scope) -> "Turn | None":
    """The turn of a call that has to wait, None if it is refused at once."""
    headers = dict(scope["headers"])
    share = method.admission.share_of(presented_by(scope, headers.get(b"authorization")))
    return method.overload.wait(share, expected_deadline(headers))


async def _read_message(receive: Receive, encoding: bytes | None, method: str) -> bytes:
    """The call's message, once the caller has closed its side. What follows it is ignored, as by grpc-core."""
    body, more = body_of(await receive())
    if not more and (message := single_message(body)) is not None:
        return message
    frames = FrameReader(encoding)
    first = _first(frames, body)
    while more:
        body, more = body_of(await receive())
        if first is None:
            first = _first(frames, body)
    if first is None:
        raise missing_message(method)
    return first


def _first(frames: FrameReader, body: bytes) -> bytes | None:
    messages = frames.feed(body)
    if messages:
        return messages[0]
    if frames.error is not None:
        raise frames.error
    return None
