"""docs/security.md: its table of callers is what servers do, and the tests that it names exist."""

import re
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from fixtures.dev_server import free_address
from fixtures.http_calls import call
from fixtures.served import Serve, Server
from ratelimit_service._gen.envoy.service.auth.v3 import external_auth_pb2 as auth_pb2
from ratelimit_service._gen.envoy.service.rate_limit_quota.v3 import rlqs_pb2
from ratelimit_service._gen.envoy.service.ratelimit.v3 import rls_pb2
from ratelimit_service._gen.ratelimit.v1 import enforcement_pb2
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as decision_pb2
from ratelimit_service.management.tokens import Role
from ratelimit_service.transport.connect.methods import METHODS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "security.md").read_text()
NO = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
SERVICES = [
    *admin_pb2.DESCRIPTOR.services_by_name.values(),
    *decision_pb2.DESCRIPTOR.services_by_name.values(),
    *auth_pb2.DESCRIPTOR.services_by_name.values(),
    *rls_pb2.DESCRIPTOR.services_by_name.values(),
    *rlqs_pb2.DESCRIPTOR.services_by_name.values(),
]

_CHECK = {"api_key": "rlk_live_none"}
REQUESTS: dict[str, Message] = {
    "RateLimitService/CheckLimit": decision_pb2.CheckLimitRequest(**_CHECK),
    "RateLimitService/CheckLimit, by key_id": decision_pb2.CheckLimitRequest(key_id="0123456789abcdef"),
    "RateLimitService/BatchCheckLimit": decision_pb2.BatchCheckLimitRequest(checks=[_CHECK]),
    "RateLimitService/StreamCheckLimit": decision_pb2.StreamCheckLimitRequest(check=_CHECK),
    "RateLimitService/SettleLimit": decision_pb2.SettleLimitRequest(reservation_id="none", actual_cost=1),
    "RateLimitService/ExtendHold": decision_pb2.ExtendHoldRequest(reservation_id="none", hold={"seconds": 1}),
    "RateLimitService/Grant": decision_pb2.GrantRequest(grant_id="0" * 32, wants=1, **_CHECK),
    "RateLimitService/StreamGrant": decision_pb2.StreamGrantRequest(
        requests=[decision_pb2.GrantRequest(grant_id="0" * 32, wants=1, **_CHECK)]
    ),
    "ManageKey, reading": admin_pb2.ManageKeyRequest(list={}),
    "ManageKey, changing": admin_pb2.ManageKeyRequest(revoke={"key_id": "0123456789abcdef"}),
    "ManagePlan, reading": admin_pb2.ManagePlanRequest(list={}),
    "ManagePlan, changing": admin_pb2.ManagePlanRequest(delete={"name": "none"}),
    "ManageOverride, reading": admin_pb2.ManageOverrideRequest(list={}),
    "ManageOverride, changing": admin_pb2.ManageOverrideRequest(set={}),
    "ManageRules, reading": admin_pb2.ManageRulesRequest(list={}),
    "ManageRules, changing": admin_pb2.ManageRulesRequest(replace={}),
    "ManageEnforcement, reading": enforcement_pb2.ManageEnforcementRequest(get={}),
    "ManageEnforcement, changing": enforcement_pb2.ManageEnforcementRequest(turn_on={}),
    "Health/Check": health_pb2.HealthCheckRequest(),
}
"""What is sent, by the end of the table's first cell; to other methods an empty message."""


class Row(NamedTuple):
    """A method, perhaps with what is done by it, and whether each caller may."""

    method: str
    how: str
    cells: list[str]


def rows() -> list[Row]:
    """The table of callers."""
    found = []
    for line in TEXT.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        match = re.fullmatch(r"`([\w.]+/\w+)`(.*)", cells[0])
        if match and len(cells) == 6:
            found.append(Row(match[1], match[2].replace("`", ""), cells[1:]))
    return found


def request_of(row: Row) -> Message | None:
    """What to send, None for an empty message."""
    name = row.method + row.how
    for end, message in REQUESTS.items():
        if name.endswith(end) and "envoy" not in name:
            return message
    return None


def is_allowed(server: Server, row: Row, role: Role | None) -> bool:
    """Whether a caller with this role may make the call, whatever else is wrong with it."""
    metadata = () if role is None else (("authorization", f"Bearer {server.tokens[role]}"),)
    channel, path, message = server.channel, f"/{row.method}", request_of(row)
    data = b"" if message is None else message.SerializeToString()
    try:
        if "Stream" in row.method:
            next(channel.stream_stream(path)(iter([data]), metadata=metadata, timeout=10))
        else:
            channel.unary_unary(path)(data, metadata=metadata, timeout=10)
    except grpc.RpcError as error:
        return error.code() not in NO
    return True


def is_allowed_by_http(server: Server, row: Row, role: Role | None) -> bool:
    """The same, for a call in JSON over HTTP."""
    message = request_of(row)
    body = {} if message is None else MessageToDict(message)
    token = "" if role is None else server.tokens[role]
    return call(server.settings.http_listen, f"/{row.method}", body, token).status not in {401, 403}


@pytest.fixture(scope="module", params=["envoy", "grpcio"])
def transport(request: pytest.FixtureRequest) -> str:
    """Each transport in turn."""
    name: str = request.param
    return name


@pytest.mark.parametrize("protect", [True, False])
def test_who_may_call_what(serve: Serve, transport: str, *, protect: bool) -> None:
    """Each cell of the table is what a server does; by HTTP too, behind which both transports have the same."""
    has_http = transport == "envoy"
    server = serve(transport, protect_checks=protect, http_listen=free_address() if has_http else "")
    callers: list[tuple[int, Role | None]] = [(0, None)]
    if protect:
        callers = [(1, None), (2, Role.VIEWER), (3, Role.GATEWAY), (4, Role.ADMIN)]
    wrong = [
        (row.method + row.how, role, row.cells[column])
        for row in rows()
        for column, role in callers
        if is_allowed(server, row, role) is not (row.cells[column] == "yes")
    ]
    wrong += [
        (f"{row.method}{row.how} by HTTP", role, row.cells[column])
        for row in rows()
        for column, role in callers
        if has_http
        and f"/{row.method}" in METHODS
        and is_allowed_by_http(server, row, role) is not (row.cells[column] == "yes")
    ]
    server.close()
    assert wrong == []


def test_every_method_is_listed() -> None:
    """The table has every method of every service, each of those that read and change in both."""
    listed = {row.method for row in rows()}
    served = {f"{service.full_name}/{method.name}" for service in SERVICES for method in service.methods}
    assert served - listed == set()
    assert listed - served == {"grpc.health.v1.Health/Check"}
    assert all(set(row.cells) <= {"yes", "no"} for row in rows())


@pytest.mark.parametrize("document", ["SECURITY.md", "docs/security.md"])
def test_what_is_named_exists(document: str) -> None:
    """Files and settings that the documents name exist."""
    text = (ROOT / document).read_text()
    settings = (ROOT / "docs/reference/settings.md").read_text()
    assert [name for name in re.findall(r"`((?:tests|docs)/[\w/.]+)`", text) if not (ROOT / name).exists()] == []
    assert [name for name in re.findall(r"\bRATELIMIT_[A-Z_]+", text) if name not in settings] == []


def test_each_threat_has_a_test() -> None:
    """No row of the table of threats is without the test that holds it off."""
    table = TEXT.partition("## Threats")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ") and "| what holds" not in line]
    assert len(lines) > 10
    assert [line for line in lines if "tests/" not in line] == []
