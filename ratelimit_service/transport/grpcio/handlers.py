"""Between the bytes on the wire and the endpoints: reading, checking and writing messages."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Protocol, TypeVar

from ratelimit_service.api.authentication import Caller
from ratelimit_service.api.messages import MAX_MESSAGE, message_too_large, missing_message
from ratelimit_service.api.wire import Serializable
from ratelimit_service.errors import DeadlineExceeded
from ratelimit_service.transport.grpcio.interceptors import Call, Context, Handler

Request = TypeVar("Request")
Response = TypeVar("Response", bound=Serializable)
Streamed_co = TypeVar("Streamed_co", bound=Serializable, covariant=True)


class StreamEndpoint(Protocol[Streamed_co]):
    """Answers the messages of a stream, in order."""

    def __call__(self, messages: AsyncIterator[bytes], caller: Caller, /) -> AsyncIterator[Streamed_co]: ...  # noqa: D102


def unary(read: Callable[[bytes], Request], endpoint: Callable[[Request, Caller], Awaitable[Serializable]]) -> Handler:
    """A handler that passes what READ makes of the call's one message to ENDPOINT.

    The deadline is checked when the message is there, before anything is charged.
    """

    async def handle(call: Call) -> bytes:
        data: bytes | object = await call.context.read()
        if not isinstance(data, bytes):
            raise missing_message(call.method)
        request = read(_checked(data))
        check_deadline(call.context)
        return (await endpoint(request, call.caller)).SerializeToString()

    return handle


def stream(endpoint: StreamEndpoint[Response]) -> Handler:
    """A handler that passes the call's messages to ENDPOINT as they come, and writes its answers.

    Writing waits while the caller does not read, and so does ENDPOINT.
    """

    async def messages(context: Context) -> AsyncIterator[bytes]:
        while isinstance(data := await context.read(), bytes):  # else it is EOF
            yield _checked(data)

    async def handle(call: Call) -> bytes:
        context = call.context
        check_deadline(context)
        async with aclosing(endpoint(messages(context), call.caller)) as responses:  # type: ignore[type-var]
            async for response in responses:
                await context.write(response.SerializeToString())
        return b""

    return handle


def check_deadline(context: Context) -> None:
    """Raise DeadlineExceeded if the deadline has passed: the caller no longer waits."""
    remaining: float | None = context.time_remaining()
    if remaining is not None and remaining <= 0:
        raise DeadlineExceeded("the deadline had passed before the call was processed; allow it more time")


def _checked(data: bytes) -> bytes:
    if len(data) > MAX_MESSAGE:
        raise message_too_large(len(data))
    return data
