"""Between the bytes on the wire and the endpoints: reading, judging and writing messages."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Final, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from ratelimit_service.doors.grpcio.call import Call, Context, Handler
from ratelimit_service.doors.wire import Answer
from ratelimit_service.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted, Unimplemented
from ratelimit_service.keys.token import Caller

MAX_MESSAGE_BYTES: Final = 64 * 1024
"""The largest message that is taken, in bytes. A larger one is refused unread."""

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
    parse = message.FromString

    async def handle(call: Call) -> bytes:
        data: bytes | object = await call.context.read()
        if not isinstance(data, bytes):
            raise Unimplemented(
                f"{call.method} takes one message, and none came; send one",
                reason="NOT_SERVED",
                metadata={"method": call.method},
            )
        request = _parsed(data, message, parse)
        check_deadline(call.context)
        return (await endpoint(request, call.caller)).SerializeToString()

    return handle


def stream(message: type[Request], endpoint: StreamEndpoint[Request, Response]) -> Handler:
    """A handler that hands the call's messages to ENDPOINT as they come, and writes what it answers.

    Writing waits while the caller does not read, and so does ENDPOINT.
    """
    parse = message.FromString

    async def requests(context: Context) -> AsyncIterator[Request]:
        while isinstance(data := await context.read(), bytes):  # else it is EOF
            yield _parsed(data, message, parse)

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


def _parsed(data: bytes, message: type[Request], parse: Callable[[bytes], Request]) -> Request:
    if len(data) > MAX_MESSAGE_BYTES:
        raise ResourceExhausted(
            f"the message has {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are taken",
            reason="MESSAGE_TOO_LARGE",
            metadata={"size": str(len(data)), "limit": str(MAX_MESSAGE_BYTES)},
        )
    try:
        return parse(data)
    except DecodeError:
        raise InvalidArgument.of(
            "message",
            f"its {len(data)} bytes are no {message.DESCRIPTOR.full_name}; check the encoding, and that text is UTF-8",
        ) from None
