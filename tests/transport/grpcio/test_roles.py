"""Which role may call which method."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from ratelimit_service._gen.ratelimit.v1 import alerts_pb2
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as checks_pb2
from ratelimit_service._gen.ratelimit.v1.simulation_pb2 import SimulatePlanRequest
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.management.tokens import Role
from transport.grpcio.conftest import FREE, MakeSettings
from transport.grpcio.running import Refusal, RunningServer, open_server

DENIED = (grpc.StatusCode.PERMISSION_DENIED, "ROLE_INSUFFICIENT")
MISSING = (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")
INVALID = (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
ID = "0123456789abcdef"

READS = {
    "key get": ("ManageKey", admin_pb2.ManageKeyRequest(get={"key_id": ID})),
    "key list": ("ManageKey", admin_pb2.ManageKeyRequest(list={})),
    "plan get": ("ManagePlan", admin_pb2.ManagePlanRequest(get={"name": "free"})),
    "plan list": ("ManagePlan", admin_pb2.ManagePlanRequest(list={})),
    "override list": ("ManageOverride", admin_pb2.ManageOverrideRequest(subject="s", list={})),
    "explain": ("ExplainLimit", admin_pb2.ExplainLimitRequest(key_id=ID)),
    "usage": ("QueryUsage", admin_pb2.QueryUsageRequest()),
    "audit": ("ListAuditEvents", admin_pb2.ListAuditEventsRequest()),
    "alerts": ("ListAlerts", alerts_pb2.ListAlertsRequest()),
    "simulate": ("SimulatePlan", SimulatePlanRequest(name="free")),
}
CHANGES = {
    "key create": ("ManageKey", admin_pb2.ManageKeyRequest(create={"plan": "free", "subject": "s"})),
    "key update": ("ManageKey", admin_pb2.ManageKeyRequest(update={"key": {"key_id": ID}})),
    "key rotate": ("ManageKey", admin_pb2.ManageKeyRequest(rotate={"key_id": ID})),
    "key suspend": ("ManageKey", admin_pb2.ManageKeyRequest(suspend={"key_id": ID})),
    "key resume": ("ManageKey", admin_pb2.ManageKeyRequest(resume={"key_id": ID})),
    "key revoke": ("ManageKey", admin_pb2.ManageKeyRequest(revoke={"key_id": ID})),
    "plan create": ("ManagePlan", admin_pb2.ManagePlanRequest(create={"plan": FREE | {"name": "roles"}})),
    "plan update": ("ManagePlan", admin_pb2.ManagePlanRequest(update={"plan": {"name": "free"}})),
    "plan delete": ("ManagePlan", admin_pb2.ManagePlanRequest(delete={"name": "no-such"})),
    "alert test": ("TestAlert", alerts_pb2.TestAlertRequest()),
    "override set": ("ManageOverride", admin_pb2.ManageOverrideRequest(subject="s", set={})),
    "override delete": ("ManageOverride", admin_pb2.ManageOverrideRequest(subject="s", delete={"limit": "x"})),
}
AUTHENTICATION = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


def outcome(answer: object) -> tuple[grpc.StatusCode, str] | None:
    """Code and reason of a refusal for lack of a token or role; None when the call was let through."""
    if isinstance(answer, Refusal) and answer.code in AUTHENTICATION:
        return answer.code, answer.reason
    return None


@pytest.mark.parametrize("action", READS)
async def test_reading_needs_a_viewer(running: RunningServer, action: str) -> None:
    """Admins and viewers are let through, a gateway and a call without a token are not."""
    found = {role: outcome(await running.admin(*READS[action], role)) for role in (None, *Role)}
    assert found == {None: MISSING, Role.VIEWER: None, Role.ADMIN: None, Role.GATEWAY: DENIED}


@pytest.mark.parametrize("action", CHANGES)
async def test_changing_needs_an_admin(running: RunningServer, action: str) -> None:
    """Only admins are let through."""
    found = {role: outcome(await running.admin(*CHANGES[action], role)) for role in (None, *Role)}
    assert found == {None: MISSING, Role.VIEWER: DENIED, Role.ADMIN: None, Role.GATEWAY: DENIED}


async def test_a_denial_of_a_role_reports_which_is_needed(running: RunningServer) -> None:
    """The metadata has the role and the one that is needed."""
    answer = await running.admin(*CHANGES["key create"], Role.VIEWER)
    assert isinstance(answer, Refusal)
    assert dict(answer.info.metadata) == {"role": "viewer", "needed": "admin"}


async def test_an_invalid_token_is_refused(running: RunningServer, api_key: str) -> None:
    """TOKEN_INVALID, also where no token is needed: a caller that sends one wants it to count."""
    bad = running.tokens[Role.ADMIN][:-1] + "~"
    method, request = READS["key list"]
    answers = [
        await running.send(f"/ratelimit.v1.KeyAdminService/{method}", request.SerializeToString(), bad),
        await running.check(api_key=api_key, token=bad),
    ]
    assert [outcome(answer) for answer in answers] == [INVALID, INVALID]


async def test_any_caller_with_a_key_may_check_it(running: RunningServer, api_key: str) -> None:
    """Without protection the API key is enough, whatever else is sent."""
    for token in (None, *running.tokens.values()):
        answer = await running.check(api_key=api_key, token=token)
        assert isinstance(answer, checks_pb2.CheckLimitResponse), answer
        assert answer.allowed


async def test_only_a_gateway_may_send_a_key_id(running: RunningServer, api_key: str) -> None:
    """In place of the secret, the id is accepted from a gateway alone."""
    key_id = ApiKey.parse(api_key).key_id
    found = {
        role: outcome(await running.check(key_id=key_id, token=None if role is None else running.tokens[role]))
        for role in (None, *Role)
    }
    assert found == {None: DENIED, Role.VIEWER: DENIED, Role.ADMIN: DENIED, Role.GATEWAY: None}


async def test_a_key_id_in_a_batch_is_refused_for_itself_only(running: RunningServer, api_key: str) -> None:
    """The check with a key_id gets PERMISSION_DENIED, the other its decision."""
    request = checks_pb2.BatchCheckLimitRequest(
        checks=[{"key_id": ApiKey.parse(api_key).key_id}, {"api_key": api_key}]  # type: ignore[list-item]
    )
    answer = await running.send("/ratelimit.v1.RateLimitService/BatchCheckLimit", request.SerializeToString())
    assert isinstance(answer, checks_pb2.BatchCheckLimitResponse), answer
    assert answer.results[0].error.code == grpc.StatusCode.PERMISSION_DENIED.value[0]
    assert answer.results[1].decision.allowed


@pytest.fixture(scope="module")
async def protected(make_settings: MakeSettings) -> AsyncIterator[RunningServer]:
    """A server whose checks are protected."""
    settings = await asyncio.to_thread(make_settings, protect_checks=True)
    async with open_server(settings) as running:
        await running.plan("create", plan=FREE)
        yield running


@pytest.mark.parametrize("method", ["CheckLimit", "BatchCheckLimit"])
async def test_protected_checks_need_a_gateway(protected: RunningServer, method: str) -> None:
    """With protection neither a call without a token nor an admin may check."""
    path = f"/ratelimit.v1.RateLimitService/{method}"
    found = {
        role: outcome(await protected.send(path, b"", None if role is None else protected.tokens[role]))
        for role in (None, *Role)
    }
    assert found == {None: MISSING, Role.VIEWER: DENIED, Role.ADMIN: DENIED, Role.GATEWAY: None}


async def test_a_protected_stream_needs_a_gateway(protected: RunningServer) -> None:
    """A stream is refused before its first message."""
    call = protected.channel.stream_stream("/ratelimit.v1.RateLimitService/StreamCheckLimit")(timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_revoked_token_is_refused_within_a_second(protected: RunningServer) -> None:
    """A token that was used a moment ago is refused a second after its revocation."""
    services = protected.planes.services
    token = await services.tokens.create("short-lived", Role.GATEWAY)
    key = (await protected.key("create", plan="free", subject="someone")).create
    assert isinstance(await protected.check(api_key=key.secret, token=token), checks_pb2.CheckLimitResponse)
    await services.tokens.revoke("short-lived")
    await asyncio.sleep(1.1)
    assert outcome(await protected.check(api_key=key.secret, token=token)) == INVALID
