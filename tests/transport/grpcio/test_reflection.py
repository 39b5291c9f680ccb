"""Tools that know our API by reflection alone."""

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2 as alpha_pb2
from grpc_reflection.v1alpha import reflection_pb2_grpc as alpha_pb2_grpc

from ratelimit_service._gen.grpc.reflection.v1 import reflection_pb2 as v1_pb2
from ratelimit_service._gen.grpc.reflection.v1 import reflection_pb2_grpc as v1_pb2_grpc
from ratelimit_service.management.tokens import Role
from transport.grpcio.running import RunningServer

BUF = shutil.which("buf", path=str(Path(sys.executable).parent)) or "buf"


async def curl(running: RunningServer, method: str, body: str, token: str | None = None) -> tuple[int, str]:
    """The exit code and the output of `buf curl`."""
    header = [] if token is None else ["--header", f"authorization: Bearer {token}"]
    url = f"http://127.0.0.1:{running.server.port}/{method}"
    command = [BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge", *header, "--data", body, url]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_the_lines_of_the_readme_work(running: RunningServer) -> None:
    """Creating, checking, rotating and revoking a key work as written, without any file, with names in snake case."""
    token = running.tokens[Role.ADMIN]
    manage = "ratelimit.v1.KeyAdminService/ManageKey"
    code, output = await curl(running, manage, '{"create":{"plan":"free","subject":"acme"}}', token)
    assert code == 0, output
    made = json.loads(output)["create"]
    assert made["secret"].startswith("rlk_")
    assert (made["key"]["subject"], made["key"]["plan"], made["key"]["state"]) == ("acme", "free", "ACTIVE")
    key_id = made["key"]["key_id"]

    check = "ratelimit.v1.RateLimitService/CheckLimit"
    code, output = await curl(running, check, json.dumps({"api_key": made["secret"], "resource": "orders.create"}))
    assert code == 0, output
    assert json.loads(output)["allowed"] is True
    assert json.loads(output)["key_id"] == key_id

    code, output = await curl(running, manage, json.dumps({"rotate": {"key_id": key_id, "overlap": "3600s"}}), token)
    assert code == 0, output
    assert json.loads(output)["rotate"]["secret"] != made["secret"]
    code, output = await curl(running, manage, json.dumps({"revoke": {"key_id": key_id}}), token)
    assert code == 0, output
    assert json.loads(output)["revoke"]["key"]["state"] == "REVOKED"


async def test_details_of_errors_are_readable(running: RunningServer) -> None:
    """A tool that knows nothing but reflection shows the error's reason and field."""
    code, output = await curl(running, "ratelimit.v1.RateLimitService/CheckLimit", "{}")
    assert code != 0
    assert "invalid_argument" in output
    assert "api_key" in output


@pytest.mark.parametrize(
    ("messages", "stubs"), [(alpha_pb2, alpha_pb2_grpc), (v1_pb2, v1_pb2_grpc)], ids=["v1alpha", "v1"]
)
async def test_every_service_and_file_is_listed(running: RunningServer, messages: Any, stubs: Any) -> None:  # noqa: ANN401
    """Reflection of both versions lists our services with health, and gives each file that they are made of."""
    call = stubs.ServerReflectionStub(running.channel).ServerReflectionInfo(timeout=10)
    await call.write(messages.ServerReflectionRequest(list_services=""))
    services = {service.name for service in (await call.read()).list_services_response.service}
    assert services == {
        "envoy.service.auth.v3.Authorization",
        "envoy.service.rate_limit_quota.v3.RateLimitQuotaService",
        "envoy.service.ratelimit.v3.RateLimitService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "ratelimit.v1.KeyAdminService",
        "ratelimit.v1.RateLimitService",
    }
    symbols = [*services, "google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.PreconditionFailure"]
    files = set()
    for symbol in [*symbols, "google.rpc.RetryInfo"]:
        await call.write(messages.ServerReflectionRequest(file_containing_symbol=symbol))
        answer = await call.read()
        files |= {
            FileDescriptorProto.FromString(data).name for data in answer.file_descriptor_response.file_descriptor_proto
        }
    call.cancel()
    assert {"ratelimit/v1/rate_limit_service.proto", "google/rpc/error_details.proto"} <= files


async def test_what_is_no_question(running: RunningServer) -> None:
    """Bytes that are no question are INVALID_ARGUMENT, and leave no traceback in the log."""
    ask: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = running.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(iter([b"\xff" * 50]), timeout=10).read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "ServerReflectionRequest" in (caught.value.details() or "")
