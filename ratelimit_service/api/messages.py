"""From bytes to request messages, and what is answered when they are none: the same at both transports."""

from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from ratelimit_service.errors import InvalidArgument, ResourceExhausted, Unimplemented

MAX_MESSAGE: Final = 64 * 1024
"""The most bytes that a request message may have."""

Request = TypeVar("Request", bound=Message)


def parsed(data: bytes, message: type[Request]) -> Request:
    """The message that DATA is. Raises InvalidArgument."""
    try:
        return message.FromString(data)
    except DecodeError:
        raise no_message(data, message) from None


def reading(message: type[Request]) -> Callable[[bytes], Request]:
    """Reads such a message. Raises InvalidArgument."""
    return partial(parsed, message=message)


def no_message(data: bytes, message: type[Message]) -> InvalidArgument:
    """What is said of DATA that is no such message."""
    return InvalidArgument.of(
        "message",
        f"its {len(data)} bytes are no {message.DESCRIPTOR.full_name}; check the encoding, and that strings are UTF-8",
    )


def too_large(size: int) -> ResourceExhausted:
    """What is said of a message of SIZE bytes, more than MAX_MESSAGE."""
    return ResourceExhausted(
        f"the message has {size} bytes; at most {MAX_MESSAGE} are taken",
        reason="MESSAGE_TOO_LARGE",
        metadata={"size": str(size), "limit": str(MAX_MESSAGE)},
    )


def none_came(method: str) -> Unimplemented:
    """What is said of a call without a message, of a method that takes one."""
    return Unimplemented(
        f"{method} takes one message, and none came; send one", reason="NOT_SERVED", metadata={"method": method}
    )
