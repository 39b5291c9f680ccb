"""The gRPC server interceptors, each in a real server and called by a standard client."""

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
)

from clients.guarded_service import METHODS, RESPONSES, SERVICE, aio_service, call_method, sync_service
from clients.scripted_server import ScriptedServer

_KEY = (("x-api-key", "rlk_test_a"),)
_ALLOWED: dict[str, Any] = {"response": {"allowed": True, "reason": "WITHIN_LIMIT"}}
_OVER: dict[str, Any] = {
    "response": {
        "reason": "OVER_LIMIT",
        "limit": "burst",
        "retry_after": "0.5s",
        "limits": [{"name": "burst", "limit": "20", "retry_after": "0.5s", "would_deny": True, "window": "2s"}],
    }
}
_OPTIONS: dict[str, Any] = {"deadline": 10, "denial_cache_size": 0}
_REPLACED = {
    "key": lambda details: dict(details.invocation_metadata)["customer-key"],
    "resource": lambda details: details.method[1:],
    "cost": lambda _: 3,
    "skip": lambda details: details.method.endswith("/UnaryStream"),
}


@pytest.fixture
def sync_server(scripted: ScriptedServer) -> Iterator[str]:
    """Start a `grpc.server` with the interceptor; its address."""
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
    """Start a `grpc.aio.server` with the interceptor; its address."""
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
    """The address of each kind of server in turn."""
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
async def test_an_allowed_call_of_every_kind_proceeds(address: str, name: str, scripted: ScriptedServer) -> None:
    """The call has the response that it has without the interceptor, and was checked once, even if it is a stream."""
    scripted.script([_ALLOWED])
    assert await _call(address, name, _KEY) == RESPONSES[name]
    (attempt,) = scripted.attempts
    assert (attempt.api_key, attempt.resource) == ("rlk_test_a", f"/{SERVICE}/{name}")


@pytest.mark.parametrize("name", METHODS)
async def test_a_denied_call_of_every_kind_ends(address: str, name: str, scripted: ScriptedServer) -> None:
    """The caller gets RESOURCE_EXHAUSTED with headers and status details."""
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
    ("server", "expected", "reason"),
    [
        ({"response": {"reason": "KEY_REVOKED"}}, ("UNAUTHENTICATED", "The API key was revoked."), "KEY_REVOKED"),
        (
            {"response": {"reason": "KEY_SUSPENDED"}},
            ("PERMISSION_DENIED", "The API key is suspended."),
            "KEY_SUSPENDED",
        ),
        (
            {"response": {"reason": "DEGRADED_DENIED"}},
            ("UNAVAILABLE", "The rate limit could not be checked; try again."),
            "DEGRADED_DENIED",
        ),
        (
            {"status": "INVALID_ARGUMENT", "message": "api_key: bad", "reason": "INVALID_FIELD", "field": "api_key"},
            ("UNAUTHENTICATED", "The API key is not known."),
            "KEY_UNKNOWN",
        ),
        (
            {"status": "INVALID_ARGUMENT", "message": "resource: bad", "reason": "INVALID_FIELD", "field": "resource"},
            ("INVALID_ARGUMENT", "resource: bad"),
            "INVALID_FIELD",
        ),
    ],
)
async def test_each_refusal_has_its_status(
    address: str, scripted: ScriptedServer, server: dict[str, Any], expected: tuple[str, str], reason: str
) -> None:
    """The status and the reason depend on the cause."""
    scripted.script([server])
    error = await _call(address, "Unary", _KEY)
    assert isinstance(error, grpc.RpcError)
    assert (error.code().name, error.details()) == expected
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == reason


async def test_a_call_without_a_key_is_not_checked(address: str, scripted: ScriptedServer) -> None:
    """The caller gets UNAUTHENTICATED with a challenge, and the service is not called."""
    error = await _call(address, "Unary", ())
    assert isinstance(error, grpc.RpcError)
    assert (error.code().name, error.details()) == ("UNAUTHENTICATED", "No API key was sent.")
    assert dict(error.initial_metadata())["www-authenticate"] == "ApiKey"
    assert scripted.attempts == []


async def test_a_service_that_is_down_lets_calls_pass(address: str, scripted: ScriptedServer) -> None:
    """With the default options the call proceeds."""
    scripted.script([{"status": "UNAVAILABLE"}, {"status": "UNAVAILABLE"}])
    assert await _call(address, "Unary", _KEY) == [b"a"]


async def test_a_wrong_token_lets_no_call_pass(
    address: str, scripted: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A configuration error ends the call with INTERNAL and is logged, but not sent to the caller."""
    scripted.script([{"status": "UNAUTHENTICATED", "message": "the token is not known"}])
    error = await _call(address, "Unary", _KEY)
    assert isinstance(error, grpc.RpcError)
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "The rate limit could not be checked.")
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


async def test_the_options_for_threads(scripted: ScriptedServer) -> None:
    """Key, resource, cost, header style and what is skipped are those of the options."""
    with RateLimitClient(scripted.target, **_OPTIONS) as client:
        interceptor = RateLimitInterceptor(client, header_style=HeaderStyle.RATELIMIT, **_REPLACED)
        server = grpc.server(ThreadPoolExecutor(2), interceptors=[interceptor])
        server.add_generic_rpc_handlers((sync_service(),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        await _verify_options(port, scripted)
        server.stop(0).wait()


async def test_the_options_for_asyncio(scripted: ScriptedServer) -> None:
    """Key, resource, cost, header style and what is skipped are those of the options."""
    async with AsyncRateLimitClient(scripted.target, **_OPTIONS) as client:
        interceptor = AsyncRateLimitInterceptor(client, header_style=HeaderStyle.RATELIMIT, **_REPLACED)
        server = grpc.aio.server(interceptors=[interceptor])
        server.add_generic_rpc_handlers((aio_service(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        await _verify_options(port, scripted)
        await server.stop(0)


async def _verify_options(port: int, scripted: ScriptedServer) -> None:
    scripted.script([_OVER])
    error = await _call(f"127.0.0.1:{port}", "Unary", (("customer-key", "rlk_test_c"),))
    assert isinstance(error, grpc.RpcError)
    assert dict(error.initial_metadata())["ratelimit-limit"] == "20"
    (attempt,) = scripted.attempts
    assert (attempt.api_key, attempt.resource, attempt.cost) == ("rlk_test_c", "test.Echo/Unary", 3)
    assert await _call(f"127.0.0.1:{port}", "UnaryStream", ()) == RESPONSES["UnaryStream"]
    assert len(scripted.attempts) == 1


async def test_an_abandoned_call_does_not_pass(scripted: ScriptedServer) -> None:
    """A call whose caller's deadline passes during the check ends there: the method does not run."""
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
