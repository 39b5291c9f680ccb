"""What becomes of calls when the server behind is slow, refuses, or is away; and of those whose callers go."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest_asyncio

from fixtures.http_calls import CHECK
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service.api.status import to_metadata
from ratelimit_service.aside import aside
from ratelimit_service.errors import Overloaded
from ratelimit_service.operations.listener import MAX_CONNECTIONS, Listener
from ratelimit_service.server.port import open_listener
from ratelimit_service.transport.connect.app import ConnectApp
from ratelimit_service.transport.connect.backend import Backend
from ratelimit_service.transport.connect.messages import MAX_VALUES


class Behind(grpc.GenericRpcHandler):
    """A gRPC server that allows calls of resource `now`, refuses those of `overload`, and has others wait."""

    def __init__(self) -> None:
        self.waiting = 0
        self.remaining: list[float] = []

    def service(self, _details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """The same handler for all methods."""
        return grpc.unary_unary_rpc_method_handler(self._handle)

    async def _handle(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        resource = CheckLimitRequest.FromString(data).resource
        self.remaining.append(context.time_remaining())
        if resource == "overload":
            error = Overloaded("too many", retry_after=1.2)
            await context.abort(grpc.StatusCode.UNAVAILABLE, error.message, to_metadata(error))
        if resource != "now":
            self.waiting += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.waiting -= 1
        return CheckLimitResponse(allowed=True).SerializeToString()


class Port:
    """An HTTP port, and what is behind it."""

    def __init__(self, number: int, behind: Behind, server: grpc.aio.Server) -> None:
        self.number = number
        self.behind = behind
        self.server = server

    async def begin(
        self, resource: str, *headers: str, body: str = ""
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a call on a connection of its own: for RESOURCE, unless another BODY is given."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.number)
        body = body or json.dumps({"resource": resource})
        lines = [f"POST {CHECK} HTTP/1.1", "host: x", "content-type: application/json", *headers]
        writer.write("\r\n".join([*lines, f"content-length: {len(body)}", "connection: close", "", body]).encode())
        return reader, writer

    async def call(self, resource: str, *headers: str) -> str:
        """The response to a call."""
        reader, writer = await self.begin(resource, *headers)
        text = (await asyncio.wait_for(reader.read(), 10)).decode()
        writer.close()
        return text


@pytest_asyncio.fixture
async def port(tmp_path: Path) -> AsyncIterator[Port]:
    """A port whose server accepts 4 calls on each connection."""
    behind, server = Behind(), grpc.aio.server(options=[("grpc.max_concurrent_streams", 8)])
    server.add_generic_rpc_handlers((behind,))
    server.add_insecure_port(f"unix:{tmp_path}/behind.sock")
    await server.start()
    backend = Backend(tmp_path / "behind.sock", 4)
    listening = open_listener("127.0.0.1:0", "RATELIMIT_HTTP_LISTEN")
    listener = Listener(listening, None)
    listener.app = ConnectApp(backend, gateways=(), tls_only=False)
    listener.start()
    yield Port(listening.getsockname()[1], behind, server)
    await listener.close(0.1)
    await backend.close()
    await server.stop(0)


async def until(port: Port, waiting: int) -> None:
    """Wait until so many calls wait behind."""
    async with asyncio.timeout(10):
        while port.behind.waiting != waiting:  # noqa: ASYNC110  counted in another place
            await asyncio.sleep(0.02)


async def test_calls_that_wait_hold_no_others(port: Port) -> None:
    """With all connections but one in calls that wait, a further call is answered at once.

    Those of callers that go are cancelled behind, too.
    """
    waiting = [await port.begin("never") for _ in range(MAX_CONNECTIONS - 1)]
    await until(port, len(waiting))
    async with asyncio.timeout(2):
        assert '"allowed":true' in await port.call("now")
    for _, writer in waiting:
        writer.close()
    await until(port, 0)


async def test_bodies_of_callers_that_have_gone_are_not_read(port: Port) -> None:
    """Large ones are read one after another: those that wait for their turn give it up when their callers go."""
    busy = asyncio.ensure_future(aside(time.sleep, 0.5))
    wrong = json.dumps({"checks": [{"hold": "1s"}] * (MAX_VALUES // 2 - 2)})
    gone = [await port.begin("", body=wrong) for _ in range(100)]
    await asyncio.sleep(0.2)
    for _, writer in gone:
        writer.close()
    await asyncio.sleep(0.1)
    began = time.monotonic()
    reader, writer = await port.begin("", body=json.dumps({"resource": "now"}) + " " * 5_000)
    assert b'"allowed":true' in await asyncio.wait_for(reader.read(), 20)
    assert time.monotonic() - began < 1.5
    writer.close()
    await busy


async def test_a_refusal_says_when_to_come_back(port: Port) -> None:
    """OVERLOADED is 503, with Retry-After in whole seconds, and its details."""
    head, _, body = (await port.call("overload")).partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 503 ")
    assert "\r\nretry-after: 2\r\n" in f"{head}\r\n"
    error = json.loads(body)
    assert (error["code"], error["details"][0]["debug"]["reason"]) == ("unavailable", "OVERLOADED")
    assert error["details"][1]["debug"] == {"retryDelay": "1.200s"}


async def test_deadlines_are_passed_on(port: Port) -> None:
    """The server knows how long the caller waits, and the caller is answered then."""
    head, _, body = (await port.call("never", "connect-timeout-ms: 200")).partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 504 ")
    assert json.loads(body)["details"][0]["debug"]["reason"] == "DEADLINE_TOO_SHORT"
    assert 0 < port.behind.remaining[0] <= 0.2
    await port.call("now")
    assert 50 < port.behind.remaining[1] <= 61


async def test_without_a_server_behind(port: Port) -> None:
    """A call is 503, without the library's words and our paths; one under way too."""
    _reader, writer = await port.begin("never")
    await until(port, 1)
    await port.server.stop(0)
    with contextlib.closing(writer):
        under_way = (await asyncio.wait_for(_reader.read(), 10)).decode()
    for text in (under_way, await port.call("now")):
        assert text.startswith("HTTP/1.1 503 ")
        assert "\r\nretry-after: 1\r\n" in text
        assert "send it again" in text
        assert ".sock" not in text
