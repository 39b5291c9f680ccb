"""A service of four methods, one of each kind, to put behind an interceptor."""

from collections.abc import AsyncIterator, Iterator

import grpc

METHODS = ("Unary", "UnaryStream", "StreamUnary", "StreamStream")
SERVICE = "test.Echo"


def call_method(channel: grpc.Channel, name: str, metadata: tuple[tuple[str, str], ...]) -> list[bytes]:
    """Call the method NAME with `a` and `b` if it takes a stream, otherwise with `a`. Returns all responses."""
    path = f"/{SERVICE}/{name}"
    if name == "Unary":
        return [channel.unary_unary(path)(b"a", metadata=metadata)]
    if name == "UnaryStream":
        return list(channel.unary_stream(path)(b"a", metadata=metadata))
    if name == "StreamUnary":
        return [channel.stream_unary(path)(iter([b"a", b"b"]), metadata=metadata)]
    return list(channel.stream_stream(path)(iter([b"a", b"b"]), metadata=metadata))


RESPONSES = {"Unary": [b"a"], "UnaryStream": [b"a", b"a"], "StreamUnary": [b"ab"], "StreamStream": [b"a", b"b"]}


def sync_service() -> grpc.GenericRpcHandler:
    """The service for `grpc.server`."""

    def unary(request: bytes, _context: object) -> bytes:
        return request

    def unary_stream(request: bytes, _context: object) -> Iterator[bytes]:
        yield request
        yield request

    def stream_unary(requests: Iterator[bytes], _context: object) -> bytes:
        return b"".join(requests)

    def stream_stream(requests: Iterator[bytes], _context: object) -> Iterator[bytes]:
        yield from requests

    return _service(unary, unary_stream, stream_unary, stream_stream)


def aio_service() -> grpc.GenericRpcHandler:
    """The service for `grpc.aio.server`."""

    async def unary(request: bytes, _context: object) -> bytes:
        return request

    async def unary_stream(request: bytes, _context: object) -> AsyncIterator[bytes]:
        yield request
        yield request

    async def stream_unary(requests: AsyncIterator[bytes], _context: object) -> bytes:
        return b"".join([request async for request in requests])

    async def stream_stream(requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    return _service(unary, unary_stream, stream_unary, stream_stream)


def _service(
    unary: object, unary_stream: object, stream_unary: object, stream_stream: object
) -> grpc.GenericRpcHandler:
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "UnaryStream": grpc.unary_stream_rpc_method_handler(unary_stream),
        "StreamUnary": grpc.stream_unary_rpc_method_handler(stream_unary),
        "StreamStream": grpc.stream_stream_rpc_method_handler(stream_stream),
    }
    return grpc.method_handlers_generic_handler(SERVICE, handlers)
