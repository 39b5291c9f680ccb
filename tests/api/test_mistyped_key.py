"""A mistyped key is a decision in every API on every transport, without a call to any store."""

import itertools
from collections.abc import Callable, Iterator

import grpc
import psycopg
import pytest
import redis

from fixtures.served import Server
from ratelimit_service._gen.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    BatchCheckLimitRequest,
    BatchCheckLimitResponse,
    CheckLimitRequest,
    CheckLimitResponse,
    StreamCheckLimitRequest,
    StreamCheckLimitResponse,
)

CHECKS = "/ratelimit.v1.RateLimitService"
UNKNOWN = CheckLimitResponse(reason=CheckLimitResponse.KEY_UNKNOWN, source=CheckLimitResponse.POLICY)


@pytest.fixture(scope="module", params=["grpcio", "envoy"])
def server(request: pytest.FixtureRequest, shared_server: Callable[[str], Server]) -> Server:
    """A server behind each transport."""
    return shared_server(request.param)


@pytest.fixture
def mistyped(server: Server) -> list[str]:
    """A real key with one letter changed, one cut short, two glued together, and garbage."""
    _, key = server.key()
    return [
        key[:-9] + ("a" if key[-9] != "a" else "b") + key[-8:],
        key[:-1],
        f"{key},{key}",
        "garbage",
        "\x00",
        "é" * 99,
    ]


@pytest.fixture
def untouched_stores(server: Server) -> Iterator[None]:
    """Fails the test if Valkey runs a script on any bucket, or a key is read from Postgres: its tables are locked.

    Probes of health run the script on nothing, the flush of usage on counts, and the change feed reads another table.
    """
    database = psycopg.connect(server.settings.database_url.get_secret_value())
    valkey = redis.Redis.from_url(server.settings.redis_url.get_secret_value())
    with database, valkey, valkey.monitor() as monitor:
        database.execute("LOCK TABLE keys, key_secrets, plans IN ACCESS EXCLUSIVE MODE")
        yield
        valkey.echo("the end")
        commands = itertools.takewhile(lambda seen: "the end" not in seen["command"], monitor.listen())
        words = [str(seen["command"]).split() for seen in commands]
        scripts = [each for each in words if each[0].upper() in {"EVALSHA", "EVAL"}]
        on_buckets = [each for each in scripts if not all(":u:" in key for key in each[3 : 3 + int(each[2])])]
        assert on_buckets == []


def test_no_api_answers_with_an_error(server: Server, mistyped: list[str], untouched_stores: None) -> None:  # noqa: ARG001
    """KEY_UNKNOWN from CheckLimit, batch and stream, OVER_LIMIT from the rate limit service, 401 from ext_authz."""
    checks = [CheckLimitRequest(api_key=key, resource="r") for key in mistyped]
    assert [_call(server, f"{CHECKS}/CheckLimit", one, CheckLimitResponse) for one in checks] == [UNKNOWN] * len(checks)
    batch = _call(server, f"{CHECKS}/BatchCheckLimit", BatchCheckLimitRequest(checks=checks), BatchCheckLimitResponse)
    assert [result.decision for result in batch.results] == [UNKNOWN] * len(checks)
    stream = server.channel.stream_stream(f"{CHECKS}/StreamCheckLimit", _to_bytes, StreamCheckLimitResponse.FromString)(
        iter([StreamCheckLimitRequest(check=one) for one in checks]), timeout=10
    )
    assert [response.result.decision for response in stream] == [UNKNOWN] * len(checks)
    for key in mistyped:
        request = RateLimitRequest(domain="d", descriptors=[{"entries": [{"key": "api_key", "value": key}]}])
        method = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
        assert _call(server, method, request, RateLimitResponse).overall_code == RateLimitResponse.OVER_LIMIT
        http = {"method": "GET", "path": "/", "headers": {"x-api-key": key}}
        checked = _call(
            server,
            "/envoy.service.auth.v3.Authorization/Check",
            CheckRequest(attributes={"request": {"http": http}}),
            CheckResponse,
        )
        assert (checked.denied_response.status.code, checked.dynamic_metadata["reason"]) == (401, "KEY_UNKNOWN")


def test_no_key_is_an_error_of_check_limit_alone(server: Server) -> None:
    """An absent credential is INVALID_ARGUMENT: the gateway forgot it, and must notice."""
    with pytest.raises(grpc.RpcError) as error:
        _call(server, f"{CHECKS}/CheckLimit", CheckLimitRequest(resource="r"), CheckLimitResponse)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def _call(server: Server, method: str, request: object, response: type) -> object:
    return server.channel.unary_unary(method, _to_bytes, response.FromString)(request, timeout=5)


def _to_bytes(message: object) -> bytes:
    return message.SerializeToString()
