"""The empty handler of the transport grpcio: `python -m bench.empty_grpcio PORT`."""

import sys

import grpc
import uvloop

from bench.empty_app import RESPONSE
from ratelimit_service.transport.envoy.framing import PREFIX
from ratelimit_service.transport.envoy.paths import CHECK

_SERVICE, _METHOD = CHECK[1:].split("/")


async def _answer(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:  # noqa: ARG001 the shape of every method
    return RESPONSE[PREFIX:]


async def _serve(port: int) -> None:
    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(_answer)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler})])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
