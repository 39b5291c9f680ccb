"""Methods with a stream of requests and a stream of answers."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from ratelimit_service.api.authentication import Caller
from ratelimit_service.errors import InvalidArgument, Unavailable
from ratelimit_service.transport.envoy.drain import Drain
from ratelimit_service.transport.envoy.framing import (
    App,
    Event,
    Frames,
    NotGrpc,
    Receive,
    Scope,
    Send,
    body_of,
    check_deadline,
    deadline_of,
    frame,
    headers_of,
)
from ratelimit_service.transport.envoy.responses import AnswerStream
from ratelimit_service.transport.envoy.unary import Edge

MAX_GROUP: Final = 256
"""The most messages that are answered together."""

Request = TypeVar("Request")
ReadGroup = Callable[[Sequence[bytes]], tuple[Sequence[Request], InvalidArgument | None]]
"""Reads messages up to the first that is none, and says what is wrong with that one."""
GroupEndpoint = Callable[[Sequence[Request], Caller], Awaitable[Sequence[bytes]]]


def stream(read: ReadGroup[Request], answer_group: GroupEndpoint[Request], edge: Edge, drain: Drain) -> App:
    """An application that hands what READ makes of what has arrived to ANSWER_GROUP, and writes its answers in order.

    One group at a time: the next gathers in Envoy meanwhile, and so it does while the caller does not read its
    answers, until Envoy stops reading from the caller.
    """
    conversation = _Conversation(read, answer_group, edge, drain)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        answers = AnswerStream(send)
        try:
            await conversation.hold(scope, receive, answers)
        except Exception as fault:  # noqa: BLE001 the last place that can answer
            code = await answers.refuse(fault, edge.method)
        else:
            code = await answers.end()
        edge.count(edge.method, code)

    return handle


class _Conversation(Generic[Request]):
    """How a stream is answered."""

    def __init__(
        self, read: ReadGroup[Request], answer_group: GroupEndpoint[Request], edge: Edge, drain: Drain
    ) -> None:
        self._read = read
        self._answer_group = answer_group
        self._edge = edge
        self._drain = drain

    async def hold(self, scope: Scope, receive: Receive, answers: AnswerStream) -> None:
        """Answer until the caller has closed its side and has all its answers. Raises what else ends the stream."""
        headers = headers_of(scope)
        deadline = deadline_of(headers)
        authorization, admission = headers.get(b"authorization"), self._edge.admission
        anonymous = admission.anonymous if authorization is None else None
        caller = anonymous or await admission.admit(authorization)
        frames = Frames(headers.get(b"grpc-encoding"))
        more = True
        while more:
            body, more = body_of(await _next(receive, self._drain))
            arrived = frames.feed(body)
            for start in range(0, len(arrived), MAX_GROUP):
                check_deadline(deadline)
                await self._answer(arrived[start : start + MAX_GROUP], caller, answers)
            if frames.refusal is not None:
                raise frames.refusal
        if frames.cut_off:
            raise NotGrpc("the stream was closed in the middle of a message")

    async def _answer(self, arrived: Sequence[bytes], caller: Caller, answers: AnswerStream) -> None:
        """Answer a group. If one of it is no message, those before it are answered first."""
        requests, fault = self._read(arrived)
        if requests:
            responses = await self._answer_group(requests, caller)
            await answers.write(b"".join([frame(response) for response in responses]))
        if fault is not None:
            raise fault


async def _next(receive: Receive, drain: Drain) -> Event:
    """What comes next on the stream. Raises Unavailable if the process drains first."""
    arriving = asyncio.ensure_future(receive())
    if not await drain.or_done(arriving):
        raise Unavailable("this server is draining; open the stream again, another one will answer", reason="DRAINING")
    return arriving.result()
