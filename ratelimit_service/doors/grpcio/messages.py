"""Between the bytes on the wire and the endpoints: reading, judging and writing messages."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from ratelimit_service.doors.grpcio.call import Call, Context, Handler
from ratelimit_service.doors.request import MAX_MESSAGE, none_came, parsed, too_large
from ratelimit_service.doors.wire import Answer
from ratelimit_service.errors import DeadlineExceeded
from ratelimit_service.keys.token import Caller

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Answer)
Streamed_co = TypeVar("Streamed_co", bound=Answer, covariant=True)
Taken_contra = TypeVar("Taken_contra", bound=Message, contravariant=True)


class StreamEndpoint(Protocol[Taken_contra, Streamed_co]):
    """Answers the messages of a stream, in order."""

    def __call__(self, requests: AsyncIterator[Taken_contra], caller: Caller, /) -> AsyncIterator[Streamed_co]: ...  # noqa: D102


def unary(message: type[Request], endpoint: Callable[[Request, Caller], Awaitable[Answer]]) -> Handler:
    """A handler that hands the call's one message to ENDPOINT.

    The deadline is looked at when the message is there, before anything is charged.
    """

    async def handle(call: Call) -> bytes:
        data: bytes | object = await call.context.read()
        if not isinstance(data, bytes):
            raise none_came(call.method)
        request = _parsed(data, message)
        check_deadline(call.context)
        return (await endpoint(request, call.caller)).SerializeToString()

    return handle


def stream(message: type[Request], endpoint: StreamEndpoint[Request, Response]) -> Handler:
    """A handler that hands the call's messages to ENDPOINT as they come, and writes what it answers.

    Writing waits while the caller does not read, and so does ENDPOINT.
    """

    async def requests(context: Context) -> AsyncIterator[Request]:
        while isinstance(data := await context.read(), bytes):  # else it is EOF
            yield _parsed(data, message)

    async def handle(call: Call) -> bytes:
        context = call.context
        check_deadline(context)
        async with aclosing(endpoint(requests(context), call.caller)) as responses:  # type: ignore[type-var]
            async for response in responses:
                await context.write(response.SerializeToString())
        return b""

    return handle


def check_deadline(context: Context) -> None:
    """Raise DeadlineExceeded if the caller no longer waits."""
    remaining: float | None = context.time_remaining()
    if remaining is not None and remaining <= 0:
        raise DeadlineExceeded("the deadline had passed when the call was looked at; allow it more time")


def _parsed(data: bytes, message: type[Request]) -> Request:
    if len(data) > MAX_MESSAGE:
        raise too_large(len(data))
    return parsed(data, message)
