"""Decisions on the wire, whatever the transport."""

import pytest
from google.protobuf.json_format import MessageToDict

from api.rate_limit.world import World
from decision.memory import burst
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ExplainLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service.api.key_admin.explain_limit import ExplainLimit
from ratelimit_service.decision.limit import Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.errors import InvalidArgument, PermissionDenied
from ratelimit_service.management.tokens import ANONYMOUS, Caller, Role

GATEWAY = Caller("edge", Role.GATEWAY)


@pytest.fixture
def world() -> World:
    """A service over stores in memory."""
    return World()


def test_enums_are_the_protos() -> None:
    """The domain's reasons and sources have the names and numbers of the protocol. GRANT is for clients alone."""
    for ours, theirs in ((Reason, CheckLimitResponse.Reason), (Source, CheckLimitResponse.Source)):
        known = {member.name: member.value for member in ours}
        assert known == {name: number for name, number in theirs.items() if number and name != "GRANT"}


async def test_response_in_full(world: World) -> None:
    """Every field of a denial is as its documentation states."""
    api_key = world.add(
        burst(1), Limit("daily", Quota(100, Window.DAY)), Limit("trial", TokenBucket(1, 1, 1_000_000), mode=Mode.SHADOW)
    )
    await world.check(api_key=str(api_key))
    response = await world.check(api_key=str(api_key), resource="r")
    fields = MessageToDict(response, preserving_proto_field_name=True)
    limits = fields.pop("limits")
    assert fields == {
        "reason": "OVER_LIMIT",
        "source": "STORE",
        "key_id": api_key.key_id,
        "subject": "acme",
        "plan": "free",
        "limit": "burst",
        "retry_after": "0.100s",
    }
    assert limits[0] == {
        "name": "burst",
        "limit": "1",
        "reset_after": "0.100s",
        "retry_after": "0.100s",
        "would_deny": True,
        "window": "0.100s",
    }
    assert limits[1].items() >= {"name": "daily", "limit": "100", "remaining": "99", "window": "86400s"}.items()
    assert "retry_after" not in limits[1]
    assert limits[2].items() >= {"name": "trial", "would_deny": True, "shadow": True}.items()


async def test_nothing_is_left_over_from_the_call_before(world: World) -> None:
    """A response contains nothing of an earlier response for the same limit."""
    api_key = str(world.add(burst(1)))
    await world.check(api_key=api_key)
    denied = await world.check(api_key=api_key)
    peeked = await world.check(api_key=api_key, cost=0)
    assert denied.limits[0].would_deny
    assert not peeked.limits[0].would_deny
    assert not peeked.limits[0].HasField("retry_after")


async def test_absent_cost_is_one_and_zero_is_zero(world: World) -> None:
    """A cost that is not sent is 1; one that is sent as 0 only peeks."""
    api_key = str(world.add())
    assert (await world.check(api_key=api_key)).remaining == 19
    assert (await world.check(api_key=api_key, cost=0)).remaining == 19


async def test_key_id_needs_a_gateway(world: World) -> None:
    """Only a caller of role gateway may send key_id; in a batch the error is that check's own result."""
    key_id = world.add().key_id
    assert (await world.check(GATEWAY, key_id=key_id)).allowed
    for caller in (ANONYMOUS, Caller("root", Role.ADMIN)):
        with pytest.raises(PermissionDenied):
            await world.check(caller, key_id=key_id)
    api_key = world.add()
    refused, decided = await world.batch(CheckLimitRequest(key_id=key_id), CheckLimitRequest(api_key=str(api_key)))
    assert refused.error.code == 7
    assert decided.decision.allowed
    assert decided.decision.key_id == api_key.key_id


@pytest.mark.parametrize(("count", "problem"), [(0, "has 0 entries"), (257, "has more than 256 entries")])
async def test_batch_size_is_bounded(world: World, count: int, problem: str) -> None:
    """A batch has 1 to 256 checks."""
    with pytest.raises(InvalidArgument, match=problem):
        await world.batch(*[CheckLimitRequest()] * count)


async def test_bad_check_in_a_batch(world: World) -> None:
    """A malformed check has code, reason, field and message as its result; the others are decided."""
    api_key = str(world.add())
    first, second, third = await world.batch(
        CheckLimitRequest(api_key=api_key), CheckLimitRequest(), CheckLimitRequest(api_key=api_key, cost=2**64 - 1)
    )
    assert first.decision.remaining == 19
    assert (second.error.code, second.error.field) == (3, "api_key")
    assert (third.error.code, third.error.field) == (3, "cost")
    assert str(2**64 - 1) in third.error.message


async def test_explain(world: World) -> None:
    """ExplainLimit reports the decision and every limit with its level, its bucket, and why it does not apply."""
    api_key = world.add(burst(10), burst(5, name="orders", resource="orders.*"))
    response = await ExplainLimit(world.engine)(
        ExplainLimitRequest(key_id=api_key.key_id, resource="users", cost=11), Caller("ann", Role.VIEWER)
    )
    assert response.decision.reason == CheckLimitResponse.COST_EXCEEDS_CAPACITY
    assert response.plan_version == 1
    assert [(c.limit.name, c.applies, c.why_not) for c in response.limits] == [
        ("burst", True, ""),
        ("orders", False, "resource"),
    ]
    assert response.limits[0].bucket
    assert not response.limits[1].bucket


async def test_an_explanation_without_a_cost_is_of_1_token(world: World) -> None:
    """ExplainLimit takes an absent cost for 1, as CheckLimit does, and one of 0 for 0."""
    api_key = world.add(burst(1))
    await world.check(api_key=str(api_key))
    explain, viewer = ExplainLimit(world.engine), Caller("ann", Role.VIEWER)
    assert not (await explain(ExplainLimitRequest(key_id=api_key.key_id), viewer)).decision.allowed
    assert (await explain(ExplainLimitRequest(key_id=api_key.key_id, cost=0), viewer)).decision.allowed
