"""A call whose path is not UTF-8, at which the library of the transport grpcio stops serving."""

import time

import grpc
import pytest

from attacks import frames
from attacks.attacked import Target
from attacks.connection import Connection
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as grpc_stubs

_BACK_SECONDS = 20.0
"""A new worker starts within 2 s on a quiet machine."""


@pytest.mark.timeout(120)
def test_a_path_that_is_not_utf8(target: Target) -> None:
    """Calls are decided soon after it: the transport envoy does not notice it, and grpcio starts another worker."""
    _, api_key = target.server.key("wide")
    request = pb2.CheckLimitRequest(api_key=api_key)
    block = frames.header_block("/ratelimit.v1.RateLimitService/\xd8\xff")
    with Connection(target.address) as connection:
        connection.send(frames.call(1, block, frames.message(b"")))
        connection.drain(0.5)
    began = time.monotonic()
    while True:
        try:
            with grpc.insecure_channel(target.address) as channel:
                response = grpc_stubs.RateLimitServiceStub(channel).CheckLimit(request, timeout=2)
        except grpc.RpcError:
            assert time.monotonic() - began < _BACK_SECONDS
        else:
            break
    assert response.allowed
    if target.transport == "envoy":
        assert time.monotonic() - began < 2
