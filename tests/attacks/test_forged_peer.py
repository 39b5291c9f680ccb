"""Who the peer of a call is cannot be forged by the call's own headers."""

import re
from collections.abc import Callable

import grpc
import pytest

from fixtures.served import Server
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2_grpc as admin_grpc

FORGED = (
    ("x-forwarded-for", "203.0.113.9"),
    ("x-real-ip", "203.0.113.9"),
    ("forwarded", "for=203.0.113.9"),
    ("x-envoy-external-address", "203.0.113.9"),
    ("x-ratelimit-peer", "203.0.113.9:1"),
    ("x-ratelimit-peer", "203.0.113.10:1"),
)


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_a_caller_cannot_choose_its_peer(serve: Callable[..., Server], transport: str) -> None:
    """The log names the other end of the connection as the peer, on the control plane behind Envoy too."""
    server = serve(transport)
    with grpc.insecure_channel(server.address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        stub = admin_grpc.KeyAdminServiceStub(channel)
        with pytest.raises(grpc.RpcError):
            stub.ManageKey(admin_pb2.ManageKeyRequest(), metadata=FORGED, timeout=5)
    server.wait_for_output("TOKEN_MISSING")
    (line,) = (line for line in server.output.splitlines() if "TOKEN_MISSING" in line)
    assert re.search(r"peer=127\.0\.0\.1:[1-9]\d*\b", line), line
