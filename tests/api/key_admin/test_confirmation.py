"""Changes that have to be confirmed, as callers of KeyAdminService meet them, on a real Postgres."""

from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.json_format import ParseDict
from google.rpc import error_details_pb2

from fixtures.control_plane import ControlPlane, key_draft, plan_draft
from ratelimit_service._gen.ratelimit.v1 import enforcement_pb2
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as pb
from ratelimit_service.api.status import to_status
from ratelimit_service.errors import InvalidArgument, PermissionDenied, ServiceError
from ratelimit_service.management.tokens import Caller, Role
from ratelimit_service.postgres.database import Database

ADMIN = Caller("ada", Role.ADMIN)
DAILY = {"name": "daily", "quota": {"amount": "10000", "window": "DAY"}}
WITHOUT_BURST = {"plan": {"name": "free", "limits": [DAILY]}, "update_mask": "limits"}


@pytest_asyncio.fixture
async def plane(database: Database) -> ControlPlane:
    """Return the services with the plan free."""
    plane = ControlPlane(database, confirm_keys=1_000)
    await plane.plans.create("ada", plan_draft())
    return plane


async def refused(call: Any, request: Any) -> tuple[dict[str, str], list[tuple[str, str, str]]]:  # noqa: ANN401
    """The metadata of a refusal that asks for a confirmation, and its violations, as they are sent."""
    with pytest.raises(ServiceError) as caught:
        await call(request, ADMIN)
    status = to_status(caught.value)
    assert status.code == 9
    info, failure = error_details_pb2.ErrorInfo(), error_details_pb2.PreconditionFailure()
    for detail in status.details:
        assert detail.Unpack(info) or detail.Unpack(failure)
    assert info.reason == "CONFIRMATION_REQUIRED"
    assert status.ByteSize() < 8_000
    return dict(info.metadata), [(one.type, one.subject, one.description) for one in failure.violations]


async def test_a_plan(plane: ControlPlane) -> None:
    """The refusal names what would be lifted, and what usage says of it; with its confirmation the change is made."""
    request = ParseDict({"update": WITHOUT_BURST}, pb.ManagePlanRequest())
    metadata, violations = await refused(plane.service.manage_plan, request)
    assert violations == [("CONFIRMATION", "plans/free", "limit burst is removed")]
    assert metadata["usage"] == "No call of its keys was counted in the last 24 h."
    request.update.confirmation = metadata["confirmation"]
    assert (await plane.service.manage_plan(request, ADMIN)).update.plan.version == 2
    back = ParseDict({"roll_back": {"name": "free"}}, pb.ManagePlanRequest())
    assert len((await plane.service.manage_plan(back, ADMIN)).roll_back.plan.limits) == 2
    metadata, _ = await refused(plane.service.manage_plan, back)
    back.roll_back.confirmation = metadata["confirmation"]
    assert (await plane.service.manage_plan(back, ADMIN)).roll_back.plan.version == 4


async def test_an_override_and_rules(plane: ControlPlane) -> None:
    """Overrides and rules are confirmed in the same way, each when it is set and when it ends."""
    await plane.keys.create("ada", key_draft())
    override = {"limit": {"name": "daily", "quota": {"amount": "4000", "window": "DAY"}}}
    cut = ParseDict({"subject": "acme", "set": {"override": override}}, pb.ManageOverrideRequest())
    metadata, violations = await refused(plane.service.manage_override, cut)
    assert violations == [("CONFIRMATION", "subjects/acme", "limit daily is cut by 60 %")]
    assert metadata["usage"] == "No call of it was counted in the last day."
    cut.set.confirmation = metadata["confirmation"]
    await plane.service.manage_override(cut, ADMIN)
    rules = {"domain": "edge", "descriptors": [{"key": "a", "limits": [{"quota": {"amount": 1, "window": "DAY"}}]}]}
    replace = ParseDict({"replace": {"rules": rules}}, pb.ManageRulesRequest())
    await plane.service.manage_rules(replace, ADMIN)
    delete = ParseDict({"delete": {"domain": "edge"}}, pb.ManageRulesRequest())
    metadata, violations = await refused(plane.service.manage_rules, delete)
    assert violations == [("CONFIRMATION", "domains/edge", "a is removed")]
    delete.delete.confirmation = metadata["confirmation"]
    await plane.service.manage_rules(delete, ADMIN)


async def test_the_switch(plane: ControlPlane) -> None:
    """The switch is turned off for a day at most, by admins alone, and is on once its time is over."""
    manage = plane.service.manage_enforcement

    async def turn(caller: Caller = ADMIN, **action: Any) -> enforcement_pb2.Enforcement:  # noqa: ANN401
        return (await manage(enforcement_pb2.ManageEnforcementRequest(**action), caller)).enforcement

    assert not (await turn(get={})).off
    for seconds in (0, 86_401):
        with pytest.raises(InvalidArgument) as wrong:
            await turn(turn_off={"duration": {"seconds": seconds}})
        assert wrong.value.violations[0].field == "turn_off.duration"
    with pytest.raises(InvalidArgument):
        await turn()
    with pytest.raises(PermissionDenied):
        await turn(Caller("vera", Role.VIEWER), turn_off={"duration": {"seconds": 60}})
    off = await turn(turn_off={"duration": {"seconds": 86_400}, "comment": "drill"})
    assert (off.off, off.actor, off.comment) == (True, "ada", "drill")
    assert off.off_until.ToMicroseconds() == plane.clock.us + 86_400_000_000
    assert (await turn(Caller("vera", Role.VIEWER), get={})).off
    plane.clock.us += 86_400_000_000
    assert not (await turn(get={})).off
    await turn(turn_off={"duration": {"seconds": 60}})
    assert not (await turn(turn_on={})).off
