"""Who holds a stream open gains nothing by it when its key is revoked."""

import queue
import time
from collections.abc import Callable, Iterator

import grpc
import pytest

from fixtures.served import Server
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    CheckLimitRequest,
    CheckLimitResponse,
    StreamCheckLimitRequest,
)
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub

SECONDS = 10
"""A second is what must hold; CI is generous."""


@pytest.mark.parametrize("transport", ["envoy", "grpcio"])
def test_a_revoked_key_on_an_open_stream(shared_server: Callable[[str], Server], transport: str) -> None:
    """A key that is revoked is answered KEY_REVOKED within 1 s on the stream that used it, another one goes on."""
    server = shared_server(transport)
    revoked_id, revoked = server.key("wide")
    _, other = server.key("wide")
    requests: queue.Queue[str] = queue.Queue()

    def sent() -> Iterator[StreamCheckLimitRequest]:
        while key := requests.get():
            yield StreamCheckLimitRequest(check=CheckLimitRequest(api_key=key))

    with grpc.insecure_channel(server.address) as channel:
        responses = RateLimitServiceStub(channel).StreamCheckLimit(sent(), timeout=60)

        def ask(key: str) -> CheckLimitResponse:
            requests.put(key)
            answer: CheckLimitResponse = next(responses).result.decision
            return answer

        assert ask(revoked).allowed
        assert ask(other).allowed
        server.manage().ManageKey(admin_pb2.ManageKeyRequest(revoke={"key_id": revoked_id}), metadata=server.as_admin)
        began = time.monotonic()
        while (answer := ask(revoked)).allowed:
            assert time.monotonic() - began < SECONDS
            time.sleep(0.01)
        assert answer.reason == CheckLimitResponse.KEY_REVOKED
        assert ask(other).allowed
        requests.put("")
        assert list(responses) == []
