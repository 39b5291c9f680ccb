"""The answers to bytes that no gRPC library sends. Nothing of it is charged."""

from collections.abc import Callable

import grpc
import pytest

from fixtures.served import Server
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as grpc_stubs
from transport.conformance.call import STREAM
from transport.conformance.raw import prefixed, send

Key = tuple[str, str]
OK, DEADLINE, EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 4, 8, 12, 13


def request(key: Key) -> bytes:
    """A check of the key."""
    return pb2.CheckLimitRequest(api_key=key[1]).SerializeToString()


def on_stream(key: Key) -> bytes:
    """The same as a message of a stream."""
    return prefixed(pb2.StreamCheckLimitRequest(check={"api_key": key[1]}).SerializeToString())


def left(server: Server, key: Key) -> int:
    """Tokens that the key's bucket has."""
    with grpc.insecure_channel(server.address) as channel:
        peek = grpc_stubs.RateLimitServiceStub(channel).CheckLimit(pb2.CheckLimitRequest(api_key=key[1], cost=0))
    return int(peek.limits[0].remaining)


def test_a_call_by_hand(server: Server, key: Key) -> None:
    """The hand-written client itself is right: a valid call is answered, in pieces of any size."""
    whole = prefixed(request(key))
    answer = send(server.address, [whole[:3], whole[3:20], whole[20:]])
    assert (answer.http, answer.code, answer.headers["content-type"]) == (200, OK, "application/grpc")
    assert pb2.CheckLimitResponse.FromString(answer.body[5:]).remaining == 19


@pytest.mark.parametrize("kind", ["application/grpc+proto", "application/grpc;charset=utf-8"])
def test_other_names_of_grpc(server: Server, key: Key, kind: str) -> None:
    """The content types that gRPC allows are accepted."""
    assert send(server.address, [prefixed(request(key))], content_type=kind).code == OK


@pytest.mark.parametrize("body", [[], [b""], [b"\0\0\0"], [prefixed(b"12345")[:-2]]])
def test_no_whole_message(server: Server, body: list[bytes]) -> None:
    """A call that is closed before its message is whole gets UNIMPLEMENTED: the method takes one message."""
    assert send(server.address, body).code == UNIMPLEMENTED


def test_more_than_one_message(server: Server, key: Key) -> None:
    """What comes after the first message of a single call is ignored."""
    assert send(server.address, [prefixed(request(key)) * 2 + b"\xff"]).code == OK
    assert left(server, key) == 19


def test_compressed_by_an_encoding(server: Server, key: Key) -> None:
    """UNIMPLEMENTED, and nothing is charged."""
    assert send(server.address, [prefixed(request(key), 1)], grpc_encoding="gzip").code == UNIMPLEMENTED
    assert left(server, key) == 20


def test_which_encodings_are_served(shared_server: Callable[[str], Server]) -> None:
    """On the transport envoy the refusal of an encoding lists those that are served; grpc-core leaves that out."""
    answer = send(shared_server("envoy").address, [prefixed(b"x", 1)], grpc_encoding="gzip")
    assert answer.headers["grpc-accept-encoding"] == "identity"


def test_compressed_by_nothing(server: Server, key: Key) -> None:
    """A compressed message without an encoding is INTERNAL, as in gRPC's specification."""
    assert send(server.address, [prefixed(request(key), 1)]).code == INTERNAL
    assert left(server, key) == 20


@pytest.mark.parametrize("size", [2**24, 2**31 - 1])
def test_a_size_that_is_only_announced(server: Server, size: int) -> None:
    """A message that is too large is refused by its prefix, without waiting for the rest."""
    answer = send(server.address, [b"\0" + size.to_bytes(4, "big")], close=False)
    assert answer.code == EXHAUSTED


@pytest.mark.parametrize(("timeout", "code"), [("abc", INTERNAL), ("S", INTERNAL), ("0S", DEADLINE), ("9H", OK)])
def test_grpc_timeout(server: Server, key: Key, timeout: str, code: int) -> None:
    """An invalid deadline is refused, and so is one that has passed."""
    assert send(server.address, [prefixed(request(key))], grpc_timeout=timeout).code == code
    assert left(server, key) == (19 if code == OK else 20)


def test_a_stream_with_a_compressed_message(server: Server, key: Key) -> None:
    """The stream ends as a call does; grpc-core may drop the answers to what came before."""
    assert send(server.address, [on_stream(key), prefixed(b"x", 1)], path=STREAM).code == INTERNAL


def test_a_stream_that_is_cut_off(shared_server: Callable[[str], Server]) -> None:
    """On the transport envoy a stream that ends within a message is an error; grpc-core drops the rest."""
    server = shared_server("envoy")
    key = server.key()
    answer = send(server.address, [on_stream(key) + on_stream(key)[:-1]], path=STREAM)
    assert (answer.code, answer.body.count(key[0].encode())) == (INTERNAL, 1)


@pytest.mark.parametrize(
    ("changes", "http"),
    [
        ({"content_type": None}, 415),
        ({"content_type": "application/json"}, 415),
        ({"content_type": "application/grpc-web"}, 415),
        ({"method": "PUT"}, 405),
    ],
)
def test_plain_http(shared_server: Callable[[str], Server], changes: dict[str, str | None], http: int) -> None:
    """On the transport envoy a request that is not gRPC is refused with an HTTP status, and charges nothing."""
    server = shared_server("envoy")
    key = server.key()
    assert send(server.address, [prefixed(request(key))], **changes).http == http
    assert left(server, key) == 20


def test_no_trailers_wanted(shared_server: Callable[[str], Server]) -> None:
    """On the transport envoy a caller that does not accept trailers gets the error in the headers."""
    server = shared_server("envoy")
    assert send(server.address, [prefixed(request(server.key()))], te=None).code == INTERNAL
