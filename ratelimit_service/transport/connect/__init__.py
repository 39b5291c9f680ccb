"""The transport for curl: unary calls in JSON over HTTP/1.1, by Connect's protocol, passed on to a gRPC server."""
