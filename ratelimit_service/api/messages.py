"""What both transports have in common: bounds, parsing of request messages, and errors of calls that reach no API."""

from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from ratelimit_service.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted, Unimplemented

MAX_MESSAGE: Final = 64 * 1024
"""Maximum bytes of a request message."""

MAX_ADMIN_MESSAGE: Final = 1_000_000
"""The same for admins at KeyAdminService: 1,000 keys fit, with 1,000 bytes of labels and texts each.

Below what grpc.aio accepts, which cannot be set by method: with it, strangers could have each as much collected.
"""

MAX_STREAM_HEADERS: Final = 8 * 1024
"""Maximum bytes of the headers of a stream, which are held for as long as it is open: nothing of others is in them."""

Request = TypeVar("Request", bound=Message)


def parse(data: bytes, message: type[Request]) -> Request:
    """DATA as a message of this type. Raises InvalidArgument."""
    try:
        return message.FromString(data)
    except DecodeError:
        raise malformed_message(data, message) from None


def malformed_message(data: bytes, message: type[Message]) -> InvalidArgument:
    """The error for DATA that is no message of this type."""
    return InvalidArgument.of(
        "message",
        f"its {len(data)} bytes are no {message.DESCRIPTOR.full_name}; check the encoding, and that strings are UTF-8",
    )


def message_too_large(size: int, limit: int = MAX_MESSAGE) -> ResourceExhausted:
    """The error for a message of SIZE bytes, more than LIMIT."""
    return ResourceExhausted(
        f"the message has {size} bytes; at most {limit} are accepted",
        reason="MESSAGE_TOO_LARGE",
        metadata={"size": str(size), "limit": str(limit)},
    )


def check_stream_headers(size: int) -> None:
    """Raise ResourceExhausted if the headers of a stream have too many bytes, namely SIZE."""
    if size > MAX_STREAM_HEADERS:
        raise ResourceExhausted(
            f"the headers of the stream have {size} bytes; at most {MAX_STREAM_HEADERS} are accepted",
            reason="MESSAGE_TOO_LARGE",
            metadata={"size": str(size), "limit": str(MAX_STREAM_HEADERS)},
        )


def missing_message(method: str) -> Unimplemented:
    """The error for a call without a message, of a method that takes one."""
    return Unimplemented(
        f"{method} takes one message, and none was sent; send one", reason="NOT_SERVED", metadata={"method": method}
    )


def not_served(method: str) -> Unimplemented:
    """The error for a call of a method that does not exist, or not on this port."""
    return Unimplemented(
        f"{method} is not served here; use server reflection to list the methods",
        reason="NOT_SERVED",
        metadata={"method": method[:256]},
    )


def served_elsewhere(method: str, where: str) -> Unimplemented:
    """The error for a call of a method that is served at another address, WHERE: the message does not name it."""
    return Unimplemented(
        f"{method} is served {where}",
        reason="NOT_SERVED",
        metadata={"method": method},
    )


ON_ADMIN_PORT: Final = "at an address of its own, and not here; call it at the server's RATELIMIT_ADMIN_LISTEN"
ON_CONTROL_PLANE: Final = "by the control plane, and not here; call it at a server with RATELIMIT_PLANE=control"
ON_DECISION_PLANE: Final = "by the decision plane, and not here; call it at a server with RATELIMIT_PLANE=decision"
"""Where a method is served."""


def deadline_passed() -> DeadlineExceeded:
    """The error for a call with a caller that no longer waits."""
    return DeadlineExceeded("the deadline had passed before the call was processed; allow it more time")
