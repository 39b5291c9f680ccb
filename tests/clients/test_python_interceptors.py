"""The gRPC server interceptors, each before a real server and called by a stock client."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2
from ratelimit_client import (
    AsyncRateLimitClient,
    AsyncRateLimitInterceptor,
    HeaderStyle,
    RateLimitClient,
    RateLimitInterceptor,
    metadata_key,
)

from clients.guarded_service import ANSWERS, METHODS, SERVICE, aio_service, call_method, sync_service
from clients.scripted_server import ScriptedServer

_KEY = (("x-api-key", "rlk_test_a"),)
_ALLOWED: dict[str, Any] = {"answer": {"allowed": True, "reason": "WITHIN_LIMIT"}}
_OVER: dict[str, Any] = {
    "answer": {
        "reason": "OVER_LIMIT",
        "limit": "burst",
        "retry_after": "0.5s",
        "limits": [{"name": "burst", "limit": "20", "retry_after": "0.5s", "would_deny": True, "window": "2s"}],
    }
}
_OPTIONS: dict[str, Any] = {"deadline": 10, "denial_cache_size": 0}
_ASKED = {"key": metadata_key("Customer-Key"), "resource": lambda details: details.method[1:], "cost": lambda _: 3}


@pytest.fixture
def sync_server(scripted: ScriptedServer) -> Iterator[str]:
    """Start a guarded `grpc.server`; its address."""
    with RateLimitClient(scripted.target, **_OPTIONS) as client:
        client.wait_until_connected()
        server = grpc.server(ThreadPoolExecutor(4), interceptors=[RateLimitInterceptor(client)])
        server.add_generic_rpc_handlers((sync_service(),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(0).wait()


@pytest_asyncio.fixture
async def aio_server(scripted: ScriptedServer) -> AsyncIterator[str]:
    """Start a guarded `grpc.aio.server`; its address."""
    async with AsyncRateLimitClient(scripted.target, **_OPTIONS) as client:
        await client.wait_until_connected()
        server = grpc.aio.server(interceptors=[AsyncRateLimitInterceptor(client)])
        server.add_generic_rpc_handlers((aio_service(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        yield f"127.0.0.1:{port}"
        await server.stop(0)


@pytest.fixture(params=["sync_server", "aio_server"])
def address(request: pytest.FixtureRequest) -> str:
    """The address of each kind of guarded server in turn."""
    found: str = request.getfixturevalue(request.param)
    return found


async def _call(address: str, name: str, metadata: tuple[tuple[str, str], ...]) -> list[bytes] | grpc.RpcError:
    """Call a method from a thread of its own, since the aio server lives in this loop."""

    def call() -> list[bytes] | grpc.RpcError:
        with grpc.insecure_channel(address) as channel:
            try:
                return call_method(channel, name, metadata)
            except grpc.RpcError as error:
                return error

    return await asyncio.to_thread(call)


@pytest.mark.parametrize("name", METHODS)
async def test_an_allowed_call_of_every_kind_goes_on(address: str, name: str, scripted: ScriptedServer) -> None:
    """The call is answered as without the interceptor, and was asked about once, also if it is a stream."""
    scripted.script([_ALLOWED])
    assert await _call(address, name, _KEY) == ANSWERS[name]
    (asked,) = scripted.attempts
    assert (asked.api_key, asked.resource) == ("rlk_test_a", f"/{SERVICE}/{name}")


@pytest.mark.parametrize("name", METHODS)
async def test_a_denied_call_of_every_kind_ends(address: str, name: str, scripted: ScriptedServer) -> None:
    """The caller gets RESOURCE_EXHAUSTED, the headers ahead and the details behind."""
    scripted.script([_OVER])
    error = await _call(address, name, _KEY)
    assert isinstance(error, grpc.RpcError)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details() == 'Over the limit "burst"; try again in 1 s.'
    headers = dict(error.initial_metadata())
    assert headers["ratelimit"] == '"burst";r=0;t=1'
    assert headers["retry-after"] == "1"
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == ("OVER_LIMIT", "ratelimit.v1", {"limit": "burst"})
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 500


@pytest.mark.parametrize(
    ("server", "told", "reason"),
    [
        ({"answer": {"reason": "KEY_REVOKED"}}, ("UNAUTHENTICATED", "The API key was revoked."), "KEY_REVOKED"),
        ({"answer": {"reason": "KEY_SUSPENDED"}}, ("PERMISSION_DENIED", "The API key is suspended."), "KEY_SUSPENDED"),
        (
            {"answer": {"reason": "DEGRADED_DENIED"}},
            ("UNAVAILABLE", "The rate limit could not be checked; try again."),
            "DEGRADED_DENIED",
        ),
        (
            {"status": "INVALID_ARGUMENT", "message": "api_key: bad", "reason": "INVALID_FIELD", "field": "api_key"},
            ("UNAUTHENTICATED", "The API key is malformed."),
            "INVALID_FIELD",
        ),
        (
            {"status": "INVALID_ARGUMENT", "message": "resource: bad", "reason": "INVALID_FIELD", "field": "resource"},
            ("INVALID_ARGUMENT", "resource: bad"),
            "INVALID_FIELD",
        ),
    ],
)
async def test_each_refusal_has_its_status(
    address: str, scripted: ScriptedServer, server: dict[str, Any], told: tuple[str, str], reason: str
) -> None:
    """The status and the reason say whose fault it is."""
    scripted.script([server])
    error = await _call(address, "Unary", _KEY)
    assert isinstance(error, grpc.RpcError)
    assert (error.code().name, error.details()) == told
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == reason


async def test_a_call_without_a_key_ends_unasked(address: str, scripted: ScriptedServer) -> None:
    """The caller gets UNAUTHENTICATED with a challenge, and the service is not asked."""
    error = await _call(address, "Unary", ())
    assert isinstance(error, grpc.RpcError)
    assert (error.code().name, error.details()) == ("UNAUTHENTICATED", "No API key was sent.")
    assert dict(error.initial_metadata())["www-authenticate"] == "ApiKey"
    assert scripted.attempts == []


async def test_a_service_that_is_away_lets_calls_pass(address: str, scripted: ScriptedServer) -> None:
    """With the default option the call goes on."""
    scripted.script([{"status": "UNAVAILABLE"}, {"status": "UNAVAILABLE"}])
    assert await _call(address, "Unary", _KEY) == [b"a"]


async def test_a_wrong_token_lets_no_call_pass(
    address: str, scripted: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of the setup ends the call, and is in the log of the server."""
    scripted.script([{"status": "UNAUTHENTICATED", "message": "the token is not known"}])
    error = await _call(address, "Unary", _KEY)
    assert isinstance(error, grpc.RpcError)
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert "the token is not known" in caplog.text


async def test_an_unknown_method_stays_unknown(sync_server: str, scripted: ScriptedServer) -> None:
    """A method that the server does not have is UNIMPLEMENTED, and nothing is charged for it."""

    def call() -> grpc.StatusCode:
        with grpc.insecure_channel(sync_server) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/test.Echo/Nothing")(b"", metadata=_KEY)
        code: grpc.StatusCode = caught.value.code()
        return code

    assert await asyncio.to_thread(call) is grpc.StatusCode.UNIMPLEMENTED
    assert scripted.attempts == []


async def test_what_to_ask_is_replaceable_for_threads(scripted: ScriptedServer) -> None:
    """Key, resource, cost and style are taken from what the server's owner gave."""
    with RateLimitClient(scripted.target, **_OPTIONS) as client:
        interceptor = RateLimitInterceptor(client, style=HeaderStyle.RATELIMIT, **_ASKED)
        server = grpc.server(ThreadPoolExecutor(2), interceptors=[interceptor])
        server.add_generic_rpc_handlers((sync_service(),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        await _check_replaced(port, scripted)
        server.stop(0).wait()


async def test_what_to_ask_is_replaceable_for_asyncio(scripted: ScriptedServer) -> None:
    """Key, resource, cost and style are taken from what the server's owner gave."""
    async with AsyncRateLimitClient(scripted.target, **_OPTIONS) as client:
        interceptor = AsyncRateLimitInterceptor(client, style=HeaderStyle.RATELIMIT, **_ASKED)
        server = grpc.aio.server(interceptors=[interceptor])
        server.add_generic_rpc_handlers((aio_service(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        await _check_replaced(port, scripted)
        await server.stop(0)


async def _check_replaced(port: int, scripted: ScriptedServer) -> None:
    scripted.script([_OVER])
    error = await _call(f"127.0.0.1:{port}", "Unary", (("customer-key", "rlk_test_c"),))
    assert isinstance(error, grpc.RpcError)
    assert dict(error.initial_metadata())["ratelimit-limit"] == "20"
    (asked,) = scripted.attempts
    assert (asked.api_key, asked.resource, asked.cost) == ("rlk_test_c", "test.Echo/Unary", 3)


async def test_a_caller_that_gives_up_does_not_pass(scripted: ScriptedServer) -> None:
    """A call whose caller's deadline passes while the service is asked ends there: the method does not run."""
    ran: list[bytes] = []

    async def method(request: bytes, _context: object) -> bytes:
        ran.append(request)
        return request

    scripted.script([{"hang": True}])
    async with AsyncRateLimitClient(scripted.target, **_OPTIONS) as client:
        await client.wait_until_connected()
        server = grpc.aio.server(interceptors=[AsyncRateLimitInterceptor(client)])
        handlers = {"Unary": grpc.unary_unary_rpc_method_handler(method)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(f"/{SERVICE}/Unary")(b"a", metadata=_KEY, timeout=0.2)
        await server.stop(None)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert (ran, client.failures.open) == ([], 0)
