"""What an operator can set, and what tools see."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import ValidationError

from api.conftest import TRANSPORTS
from api.envoy.front import (
    FrontEnvoy,
    Json,
    ext_authz_filter,
    from_headers,
    front_config,
    rate_limit_filter,
    route,
    with_token,
)
from api.envoy.upstream import Upstream
from api.envoy.wire import OK, OVER_LIMIT, Refused, ask, authorize, descriptor, limit_headers
from fixtures.served import Serve, Server
from ratelimit_service.management.tokens import Role
from ratelimit_service.settings import Settings

BUF = shutil.which("buf", path=str(Path(sys.executable).parent)) or "buf"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_protected_checks(
    transport: str, serve: Serve, upstream: Upstream, start_front: Callable[[Json], FrontEnvoy]
) -> None:
    """With protect_checks both protocols need a token of role gateway, which Envoy sends in its initial_metadata."""
    server = serve(transport, protect_checks=True)
    _, key = server.key("once")
    gateway, admin = server.tokens[Role.GATEWAY], server.tokens[Role.ADMIN]
    for token, code in ((None, grpc.StatusCode.UNAUTHENTICATED), (admin, grpc.StatusCode.PERMISSION_DENIED)):
        for call in (
            lambda token=token: ask(server, descriptor(("api_key", key)), token=token),
            lambda token=token: authorize(server, token=token, x_api_key=key),
        ):
            with pytest.raises(Refused) as caught:
                call()
            assert caught.value.code is code
    assert ask(server, descriptor(("api_key", key)), token=gateway).overall_code == OK
    assert authorize(server, token=gateway, x_api_key=key).status.code == 0

    limits = rate_limit_filter(failure_mode_deny=True)
    routes = [route(from_headers(api_key="x-api-key"))]
    for http_filter, status in ((limits, 500), (with_token(limits, gateway), 200)):
        envoy = start_front(front_config(server.address, upstream.port, http_filter, routes=routes))
        assert envoy.get(x_api_key=key).status == status
    for http_filter, status in ((ext_authz_filter(), 403), (with_token(ext_authz_filter(), gateway), 200)):
        envoy = start_front(front_config(server.address, upstream.port, http_filter, routes=[route()]))
        assert envoy.get(x_api_key=key).status == status
    server.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_bearer_key(
    transport: str, serve: Serve, upstream: Upstream, start_front: Callable[[Json], FrontEnvoy]
) -> None:
    """With key_header `authorization` the key comes after Bearer, in any case, and the upstream does not see it."""
    server = serve(transport, key_header="authorization", limit_headers="")
    _, key = server.key("once")
    envoy = start_front(front_config(server.address, upstream.port, ext_authz_filter(), routes=[route()]))
    for value in (f"Bearer {key}", f"bearer  {key} "):
        reply = envoy.get(authorization=value)
        assert reply.status == 200
        assert "authorization" not in reply.upstream_headers
        assert not {"ratelimit", "x-ratelimit-limit"} & reply.headers.keys()
    for value in (key, f"Basic {key}", "Bearer", ""):
        assert envoy.get(authorization=value).json["reason"] == "KEY_MISSING"
    assert envoy.get(x_api_key=key).json["reason"] == "KEY_MISSING"
    assert limit_headers(ask(server, descriptor(("api_key", key)))) == {}
    server.close()


@pytest.mark.parametrize("name", ["X-Api-Key", "", "x api", ":path", "-x"])
def test_invalid_header_names(name: str) -> None:
    """The setting takes the name of a header in lower case, and nothing else."""
    with pytest.raises(ValidationError, match="key_header"):
        Settings(key_header=name)


def test_health(server: Server) -> None:
    """Envoy's health checks find all three services by name."""
    stub = health_pb2_grpc.HealthStub(server.channel)
    for service in (
        "envoy.service.ratelimit.v3.RateLimitService",
        "envoy.service.auth.v3.Authorization",
        "envoy.service.rate_limit_quota.v3.RateLimitQuotaService",
    ):
        assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == 1


def test_reflection(server: Server) -> None:
    """A tool without any file can call both services, by the names that Envoy gives to everything."""
    _, key = server.key("once")
    limited = curl(
        server,
        "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
        {"domain": "front", "descriptors": [{"entries": [{"key": "api_key", "value": key}]}], "hits_addend": 2},
    )
    assert limited["overallCode"] == "OK"
    assert limited["statuses"][0]["currentLimit"] == {"name": "burst", "requestsPerUnit": 20}
    http = {"method": "GET", "path": "/", "headers": {"x-api-key": key}}
    allowed = curl(server, "envoy.service.auth.v3.Authorization/Check", {"attributes": {"request": {"http": http}}})
    assert allowed["dynamicMetadata"]["reason"] == "WITHIN_LIMIT"
    assert allowed["okResponse"]["headersToRemove"] == ["x-api-key"]


def curl(server: Server, method: str, body: Json) -> Json:
    """The response as `buf curl` prints it."""
    arguments = ["curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", json.dumps(body)]
    done = subprocess.run(
        [BUF, *arguments, f"http://{server.address}/{method}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    response: Json = json.loads(done.stdout)
    return response


def test_no_secret_is_logged(server: Server) -> None:
    """What a client sent as its key is not in the log, whether it was valid, invalid or out of place."""
    _, key = server.key("once")
    ask(server, descriptor(("api_key", key)))
    ask(server, descriptor(("api_key", key + "x")))
    authorize(server, x_api_key=key)
    authorize(server, x_api_key=key + "x")
    assert ask(server, descriptor(("api_key", key), ("other", key))).overall_code == OVER_LIMIT
    assert key not in server.output
