"""Guessing tokens takes longer and longer, and a good token from the same address does not."""

import time
from collections.abc import Callable

import grpc
import pytest

from fixtures.served import Server
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2_grpc as admin_grpc
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as stubs
from ratelimit_service.management.tokens import Role, Token


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
@pytest.mark.parametrize("method", ["CheckLimit", "ManageKey"])
def test_wrong_tokens_wait_and_good_ones_do_not(serve: Callable[..., Server], transport: str, method: str) -> None:
    """The ninth wrong token is answered seconds later, whatever address its headers name; a good one at once."""
    server = serve(transport)
    with grpc.insecure_channel(server.address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        if method == "CheckLimit":
            call, request = stubs.RateLimitServiceStub(channel).CheckLimit, pb2.CheckLimitRequest()
        else:
            call = admin_grpc.KeyAdminServiceStub(channel).ManageKey
            request = admin_pb2.ManageKeyRequest(list={})

        def seconds(token: object, number: int = 0) -> float:
            metadata = (("authorization", f"Bearer {token}"), ("x-forwarded-for", f"203.0.113.{number}"))
            began = time.monotonic()
            outcome = call.future(request, metadata=metadata, timeout=20).exception()
            code = outcome.code() if isinstance(outcome, grpc.RpcError) else grpc.StatusCode.OK
            assert (code is grpc.StatusCode.UNAUTHENTICATED) is isinstance(token, Token), outcome
            return time.monotonic() - began

        for number in range(7):
            seconds(Token.generate(), number)
        assert seconds(Token.generate(), 8) >= 2
        waiting = call.future(request, metadata=(("authorization", f"Bearer {Token.generate()}"),), timeout=20)
        assert seconds(server.tokens[Role.ADMIN]) < 1
        assert not waiting.done()
        waiting.cancel()
