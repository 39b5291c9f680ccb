"""A change at one server takes effect at all of them."""

import time
from collections.abc import Callable
from functools import partial

from fleet.conftest import Fleet, Run
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageKeyRequest, ManagePlanRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitResponse


def test_a_request_id_at_several_servers_at_once(fleet: Fleet, together: Run) -> None:
    """A call with one request_id, at all servers at the same time, is charged once and gets the same response."""
    _, api_key = fleet.servers[0].key("once")
    for number in range(10):
        call = {"api_key": api_key, "resource": "r", "request_id": f"call-{number}"}
        responses = together(*(partial(fleet.check, server, **call) for server in fleet.servers))
        assert {response.remaining for response in responses} == {19 - number}
        assert all(response.allowed for response in responses)
    assert fleet.check(fleet.servers[0], api_key=api_key, cost=0).remaining == 10


def test_a_revoked_key_is_denied_by_all_within_a_second(fleet: Fleet) -> None:
    """A revocation at one server is in force at all of them within a second."""
    manager = fleet.servers[0]
    key_id, api_key = manager.key("wide")
    assert all(response.allowed for response in fleet.check_all(api_key=api_key))
    manager.manage().ManageKey(ManageKeyRequest(revoke={"key_id": key_id}), metadata=manager.as_admin)
    _within(1.0, lambda: {each.reason for each in fleet.check_all(api_key=api_key)} == {CheckLimitResponse.KEY_REVOKED})


def test_a_changed_plan_is_in_force_at_all_within_a_second(fleet: Fleet) -> None:
    """A limit changed at one server is in force at all of them within a second."""
    manager = fleet.servers[0]

    def plan(amount: int) -> dict[str, object]:
        return {"name": "changing", "limits": [{"name": "yearly", "quota": {"amount": amount, "window": "YEAR"}}]}

    def limits(api_key: str) -> set[int]:
        return {response.limits[0].limit for response in fleet.check_all(api_key=api_key, cost=0)}

    manager.manage().ManagePlan(ManagePlanRequest(create={"plan": plan(5)}), metadata=manager.as_admin)
    _, api_key = manager.key("changing")
    assert limits(api_key) == {5}
    update = {"plan": plan(7), "update_mask": {"paths": ["limits"]}}
    manager.manage().ManagePlan(ManagePlanRequest(update=update), metadata=manager.as_admin)
    _within(1.0, lambda: limits(api_key) == {7})


def test_a_rotated_key_has_both_secrets_for_the_overlap(fleet: Fleet) -> None:
    """Both secrets are accepted by all servers during the overlap, and only the new one afterwards."""
    manager = fleet.servers[2]
    key_id, old = manager.key("wide")
    assert all(response.allowed for response in fleet.check_all(api_key=old))
    rotate = ManageKeyRequest(rotate={"key_id": key_id, "overlap": {"seconds": 2}})
    rotated = time.monotonic()
    new = manager.manage().ManageKey(rotate, metadata=manager.as_admin).rotate.secret
    _within(1.0, lambda: all(response.allowed for response in fleet.check_all(api_key=new)))
    assert all(response.allowed for response in fleet.check_all(api_key=old))
    assert time.monotonic() < rotated + 2
    time.sleep(rotated + 2.1 - time.monotonic())
    assert all(response.reason == CheckLimitResponse.KEY_UNKNOWN for response in fleet.check_all(api_key=old))
    assert all(response.allowed for response in fleet.check_all(api_key=new))


def test_an_expired_key_is_denied_from_its_expire_time(fleet: Fleet) -> None:
    """A key is accepted until its expire time, and denied as expired from then on, by all servers."""
    manager = fleet.servers[1]
    expires = time.time() + 2
    create = {"plan": "wide", "subject": "expiring", "expire_time": {"seconds": int(expires), "nanos": 0}}
    made = manager.manage().ManageKey(ManageKeyRequest(create=create), metadata=manager.as_admin).create
    if time.time() < int(expires) - 0.2:
        assert all(response.allowed for response in fleet.check_all(api_key=made.secret))
    time.sleep(max(0.0, int(expires) + 0.1 - time.time()))
    assert all(response.reason == CheckLimitResponse.KEY_EXPIRED for response in fleet.check_all(api_key=made.secret))


def _within(seconds: float, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.01)
