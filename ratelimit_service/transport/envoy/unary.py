"""Methods with one request and one answer."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

from ratelimit_service.api.authentication import Caller
from ratelimit_service.api.messages import none_came
from ratelimit_service.api.wire import Answer
from ratelimit_service.errors import Code
from ratelimit_service.transport.envoy.framing import (
    App,
    Frames,
    Receive,
    Scope,
    Send,
    body_of,
    check_deadline,
    deadline_of,
    frame,
    headers_of,
    sole_message,
)
from ratelimit_service.transport.envoy.responses import answer, refuse

Count: TypeAlias = Callable[[str, Code], None]
"""Counts one call, by full method name and the code that its caller saw."""


class Admission(Protocol):
    """Decides who may call."""

    @property
    def anonymous(self) -> Caller | None:
        """The caller without an `authorization` header; None if it has to be admitted like any other."""
        ...

    async def admit(self, authorization: bytes | None, /) -> Caller:
        """The caller behind the `authorization` header. Raises ServiceError."""
        ...


@dataclass(frozen=True, slots=True)
class Edge:
    """A method's full name, who may call it, and where its calls are counted."""

    method: str
    admission: Admission
    count: Count


Request = TypeVar("Request")


def unary(
    read: Callable[[bytes], Request], endpoint: Callable[[Request, Caller], Awaitable[Answer]], edge: Edge
) -> App:
    """An application that hands what READ makes of the call's message to ENDPOINT, and answers what that returns."""
    method, admission, count = edge.method, edge.admission, edge.count
    anonymous = admission.anonymous

    async def decide(scope: Scope, receive: Receive) -> bytes:
        headers = headers_of(scope)
        deadline = deadline_of(headers)
        # Envoy does not cancel a call that is abandoned: it says so here, and everything below runs without a pause
        # until the call has joined a batch (a token that is not known yet apart).
        data = await _only_message(receive, headers.get(b"grpc-encoding"), method)
        authorization = headers.get(b"authorization")
        caller = (anonymous if authorization is None else None) or await admission.admit(authorization)
        request = read(data)
        check_deadline(deadline)
        return frame((await endpoint(request, caller)).SerializeToString())

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            framed = await decide(scope, receive)
        except Exception as fault:  # noqa: BLE001 the last place that can answer
            code = await refuse(send, fault, method)
        else:
            code = await answer(send, framed)
        count(method, code)

    return handle


async def _only_message(receive: Receive, encoding: bytes | None, method: str) -> bytes:
    """The call's message, once the caller has sent all of it. What comes after it is ignored, as grpc-core does."""
    body, more = body_of(await receive())
    if not more and (message := sole_message(body)) is not None:
        return message
    frames = Frames(encoding)
    first = _first(frames, body)
    while more:
        body, more = body_of(await receive())
        if first is None:
            first = _first(frames, body)
    if first is None:
        raise none_came(method)
    return first


def _first(frames: Frames, body: bytes) -> bytes | None:
    messages = frames.feed(body)
    if messages:
        return messages[0]
    if frames.refusal is not None:
        raise frames.refusal
    return None
