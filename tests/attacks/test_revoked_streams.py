"""A stream ends with the token that opened it."""

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest

from api.envoy_rlqs.client import QuotaClient, message
from attacks import frames
from attacks.connection import STREAM, Connection, Sender, open_call, window
from fixtures.served import Server, free_address
from operations.probe import ask
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as stubs
from ratelimit_service.bootstrap import open_services
from ratelimit_service.management.tokens import Role

SECONDS = 1.5
"""A second, and some time for a busy machine."""


class Stream:
    """A stream of checks on a connection of its own, which a thread reads until it ends."""

    def __init__(self, address: str, token: str, api_key: str, *, interval: float) -> None:
        """With an INTERVAL of 0 it sends one check and then nothing."""
        self._request = pb2.StreamCheckLimitRequest(check={"api_key": api_key, "resource": "r"})
        self._interval = interval
        self._closed = threading.Event()
        self._channel = grpc.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),))
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._call = stubs.RateLimitServiceStub(self._channel).StreamCheckLimit(self._requests(), metadata=metadata)
        self.decisions = 0
        self.code: grpc.StatusCode | None = None
        self.ended_at = 0.0
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def close(self) -> None:
        """End it from this side."""
        self._closed.set()
        self._call.cancel()
        self._thread.join()
        self._channel.close()

    def _requests(self) -> Iterator[pb2.StreamCheckLimitRequest]:
        yield self._request
        while not self._closed.wait(self._interval or None):
            yield self._request

    def _read(self) -> None:
        try:
            for response in self._call:
                self.decisions += response.result.decision.allowed
        except grpc.RpcError as error:
            self.code = error.code()
        self.ended_at = time.monotonic()


async def manage(server: Server, action: str) -> str:
    """Create a token, and return it, or revoke it."""
    async with open_services(server.settings) as services:
        if action == "create":
            return await services.tokens.create("leaving", Role.GATEWAY)
        await services.tokens.revoke("leaving")
    return ""


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_a_stream_ends_with_its_token(shared_server: Callable[..., Server], transport: str) -> None:
    """Within a second of the revocation streams are UNAUTHENTICATED, idle or not; those of others go on."""
    server = shared_server(transport)
    _, api_key = server.key("wide")

    revoked = asyncio.run(manage(server, "create"))
    opened = {
        name: Stream(server.address, token, api_key, interval=interval)
        for name, token, interval in (
            ("idle", revoked, 0),
            ("busy", revoked, 0.005),
            ("other", server.tokens[Role.GATEWAY], 0.005),
            ("anonymous", "", 0.005),
        )
    }
    try:
        until = time.monotonic() + 10
        while not all(stream.decisions for stream in opened.values()):
            assert time.monotonic() < until, server.output
            time.sleep(0.01)
        time.sleep(1)
        assert all(stream.code is None for stream in opened.values())
        asyncio.run(manage(server, "revoke"))
        at = time.monotonic()
        time.sleep(SECONDS)
        for name in ("idle", "busy"):
            assert opened[name].code is grpc.StatusCode.UNAUTHENTICATED, name
            assert opened[name].ended_at - at < SECONDS
        before = {name: opened[name].decisions for name in ("other", "anonymous")}
        time.sleep(0.5)
        assert all(opened[name].code is None and opened[name].decisions > count for name, count in before.items())
    finally:
        for stream in opened.values():
            stream.close()


def ended(server: Server) -> int:
    """How many streams have ended as their tokens were revoked."""
    pattern = rf'^ratelimit_calls_total\{{code="UNAUTHENTICATED",method="{STREAM}"\}} (\S+)$'
    found = re.search(pattern, ask(server.settings.operations_listen, "/metrics").text, re.MULTILINE)
    return 0 if found is None else int(float(found[1]))


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_a_stream_of_quotas_ends_with_its_token(shared_server: Callable[..., Server], transport: str) -> None:
    """The same of an Envoy that reports nothing meanwhile, and of one whose reports never end."""
    server = shared_server(transport)
    token = asyncio.run(manage(server, "create"))
    quiet, busy = QuotaClient(server, token), QuotaClient(server, token)
    with quiet, busy, QuotaClient(server) as other:
        for client in (quiet, busy, other):
            client.send(message("any", ({"a": "b"}, 0, 1)))
            client.wait()
        for _ in range(200):
            busy.send(message("any", *(({"a": str(number)}, 1, 0) for number in range(500))))
        asyncio.run(manage(server, "revoke"))
        at = time.monotonic()
        assert quiet.wait_ended() is grpc.StatusCode.UNAUTHENTICATED
        assert busy.wait_ended() is grpc.StatusCode.UNAUTHENTICATED
        assert time.monotonic() - at < SECONDS
        assert other.code is None


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_a_stream_that_is_not_read_ends_with_its_token(serve: Callable[..., Server], transport: str) -> None:
    """Nor is it held by a caller who reads no answer, so that not even the first is written. Later its end is read."""
    server = serve(transport, operations_listen=free_address())
    _, api_key = server.key("wide")
    token = asyncio.run(manage(server, "create"))
    check = frames.message(pb2.StreamCheckLimitRequest(check={"api_key": api_key, "cost": 2**60}).SerializeToString())
    with Connection(server.address, frames.opening(0)) as connection:
        sender = Sender(connection)
        sender.take(0.3)
        connection.send(open_call(1, frames.header_block(STREAM, authorization=f"Bearer {token}")))
        until = time.monotonic() + 30
        while sender.send(1, check * 100, 1.0):
            assert time.monotonic() < until, "the server reads for ever"
        assert not connection.closed
        assert ended(server) == 0
        asyncio.run(manage(server, "revoke"))
        until = time.monotonic() + 10
        while ended(server) == 0:
            assert time.monotonic() < until
            time.sleep(0.1)
        sender.take()
        assert 1 not in connection.ended
        connection.send(window(1, 2**20) + window(0, 2**20))
        assert connection.wait_ended(1, 10)
        assert not connection.closed
    assert "ExecuteBatchError" not in server.output
