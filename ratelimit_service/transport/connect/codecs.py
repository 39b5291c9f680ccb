"""How messages travel in bodies: as proto3 JSON, as people write it, or as protobuf, as clients of Connect do."""

from collections.abc import Callable
from typing import Final, NamedTuple

from google.protobuf.message import Message

from ratelimit_service.transport.connect.messages import read_message, write_message


class Codec(NamedTuple):
    """One form of messages, by the content type of requests and responses.

    `decode` makes of a body the message in protobuf, which the server behind reads; raises InvalidArgument. `encode`
    makes the body of a message in protobuf.
    """

    content_type: str
    decode: Callable[[bytes, type[Message]], bytes]
    encode: Callable[[bytes, type[Message]], bytes]


def _from_json(body: bytes, kind: type[Message]) -> bytes:
    return read_message(body, kind).SerializeToString()


def _to_json(data: bytes, kind: type[Message]) -> bytes:
    return write_message(kind.FromString(data))


def _as_it_is(data: bytes, _kind: type[Message]) -> bytes:
    return data


JSON: Final = Codec("application/json", _from_json, _to_json)
PROTO: Final = Codec("application/proto", _as_it_is, _as_it_is)

CODECS: Final = {codec.content_type: codec for codec in (JSON, PROTO)}
"""The codecs by content type. A form of a browser can send none of them."""
