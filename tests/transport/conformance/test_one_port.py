"""Everything else is served on the same port: management, health, reflection."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from fixtures.served import Serve, Server
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as grpc_stubs
from ratelimit_service.management.tokens import Role

Key = tuple[str, str]


def test_the_life_of_a_key(server: Server, key: Key) -> None:
    """A key is made, decided on, revoked, and within a second denied."""
    stub = grpc_stubs.RateLimitServiceStub(server.channel)
    assert stub.CheckLimit(pb2.CheckLimitRequest(api_key=key[1])).allowed
    revoke = admin_pb2.ManageKeyRequest(revoke={"key_id": key[0]})
    server.manage().ManageKey(revoke, metadata=server.as_admin)
    for _ in range(100):
        decision = stub.CheckLimit(pb2.CheckLimitRequest(api_key=key[1], cost=0))
        if decision.reason == pb2.CheckLimitResponse.KEY_REVOKED:
            return
    pytest.fail("a hundred calls later the key is still allowed")


def test_errors_of_management_arrive_complete(server: Server) -> None:
    """A status with details arrives as it does without a proxy."""
    with pytest.raises(grpc.RpcError) as caught:
        server.manage().ManageKey(admin_pb2.ManageKeyRequest(get={"key_id": "0" * 16}), metadata=server.as_admin)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert b"KEY_NOT_FOUND" in dict(caught.value.trailing_metadata())["grpc-status-details-bin"]


def test_management_needs_a_token(server: Server) -> None:
    """UNAUTHENTICATED without one."""
    with pytest.raises(grpc.RpcError) as caught:
        server.manage().ManageKey(admin_pb2.ManageKeyRequest(get={"key_id": "0" * 16}))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_health(server: Server) -> None:
    """The server and its components serve, and a watcher gets that at once."""
    stub = health_pb2_grpc.HealthStub(server.channel)
    for component in ("", "postgres", "redis"):
        request = health_pb2.HealthCheckRequest(service=component)
        assert stub.Check(request).status == health_pb2.HealthCheckResponse.SERVING
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def test_reflection(server: Server) -> None:
    """A client without proto files finds both services."""
    services = ProtoReflectionDescriptorDatabase(server.channel).get_services()
    assert {"ratelimit.v1.RateLimitService", "ratelimit.v1.KeyAdminService"} <= set(services)


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_protected_checks(serve: Serve, transport: str) -> None:
    """With protect_checks, only a token of role gateway may request decisions, on every method."""
    server = serve(transport, protect_checks=True)
    _, secret = server.key()
    stub = grpc_stubs.RateLimitServiceStub(server.channel)
    check = pb2.CheckLimitRequest(api_key=secret)
    calls = [
        lambda metadata: stub.CheckLimit(check, metadata=metadata),
        lambda metadata: stub.BatchCheckLimit(pb2.BatchCheckLimitRequest(checks=[check]), metadata=metadata),
        lambda metadata: list(
            stub.StreamCheckLimit(iter([pb2.StreamCheckLimitRequest(check=check)]), metadata=metadata)
        ),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call(())
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.RpcError) as caught:
            call(server.as_admin)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert call((("authorization", f"Bearer {server.tokens[Role.GATEWAY]}"),))
    server.close()
