"""Length-prefixed messages, as in gRPC's PROTOCOL-HTTP2: a flag byte, four bytes of length, the message."""

from typing import Final

from ratelimit_service.doors.envoy.not_grpc import NotGrpc
from ratelimit_service.doors.request import MAX_MESSAGE, too_large
from ratelimit_service.errors import ResourceExhausted, Unimplemented

PREFIX: Final = 5
"""The bytes before each message."""

Refusal = Unimplemented | ResourceExhausted | NotGrpc


def frame(message: bytes) -> bytes:
    """The message with its prefix."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def sole_message(body: bytes) -> bytes | None:
    """The message of a body that is exactly one good message, as nearly every one is; None for any other."""
    size = len(body) - PREFIX
    # The flag, which must be 0, is the most significant of the five bytes.
    return body[PREFIX:] if int.from_bytes(body[:PREFIX], "big") == size <= MAX_MESSAGE else None


class Frames:
    """Cuts a request body into messages as it arrives. Holds at most one that is not whole yet."""

    __slots__ = ("_encoding", "_rest", "refusal")

    def __init__(self, encoding: bytes | None) -> None:
        """ENCODING is the call's `grpc-encoding`, None if it has none."""
        self._encoding = encoding
        self._rest = b""
        self.refusal: Refusal | None = None
        """What is wrong with the message after the last good one: it is compressed, or above MAX_MESSAGE.

        Known as soon as the message's prefix is there. Nothing more may be fed then.
        """

    @property
    def cut_off(self) -> bool:
        """Whether a message has begun and is not whole."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Take what has arrived, and return the messages that are now whole and good."""
        if self._rest:
            data = self._rest + data
        messages: list[bytes] = []
        start, end = 0, len(data)
        while end - start >= PREFIX:
            size = int.from_bytes(data[start + 1 : start + PREFIX], "big")
            if data[start] or size > MAX_MESSAGE:
                self.refusal = self._compressed() if data[start] else too_large(size)
                break
            if end - start - PREFIX < size:
                break
            start += PREFIX
            messages.append(data[start : start + size])
            start += size
        self._rest = data[start:]
        return messages

    def _compressed(self) -> Refusal:
        if self._encoding in (None, b"identity"):
            return NotGrpc("a message is flagged as compressed, but the call has no grpc-encoding")
        encoding = self._encoding[:64].decode("ascii", "replace")
        return Unimplemented(
            f"the messages are compressed with {encoding!r}; send them uncompressed",
            reason="NOT_SERVED",
            metadata={"encoding": encoding},
        )
