"""From bytes to messages, and what is answered when they are none."""

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from ratelimit_service.errors import InvalidArgument

Request = TypeVar("Request", bound=Message)


def parsed(data: bytes, message: type[Request]) -> Request:
    """The message that DATA is. Raises InvalidArgument."""
    try:
        return message.FromString(data)
    except DecodeError:
        raise no_message(data, message) from None


def no_message(data: bytes, message: type[Message]) -> InvalidArgument:
    """What is said of DATA that is no such message."""
    return InvalidArgument.of(
        "message",
        f"its {len(data)} bytes are no {message.DESCRIPTOR.full_name}; check the encoding, and that strings are UTF-8",
    )
