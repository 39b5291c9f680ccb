"""A collector that takes spans and reads none: `python -m bench.collector PORT`."""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class _Taken(grpc.GenericRpcHandler):
    """Takes what exporters send."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        """The handler of the only method."""
        if handler_call_details.method != _EXPORT:
            return None
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")


def main() -> None:
    """Run until killed."""
    server = grpc.server(ThreadPoolExecutor(1), handlers=[_Taken()])
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
