"""ManageRules: roles, messages, and the path of the invalid field."""

from collections.abc import Callable

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from fixtures.control_plane import ControlPlane
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageRulesRequest, ManageRulesResponse
from ratelimit_service._gen.ratelimit.v1.rules_pb2 import DomainRules
from ratelimit_service.errors import Aborted, InvalidArgument, NotFound, PermissionDenied
from ratelimit_service.management.tokens import ANONYMOUS, Caller, Role

ADMIN = Caller("ann", Role.ADMIN)
VIEWER = Caller("ben", Role.VIEWER)
GATEWAY = Caller("gate", Role.GATEWAY)

SHOP = {
    "domain": "shop",
    "on_store_failure": "LOCAL",
    "charge": "ALWAYS",
    "description": "what the shop may do",
    "descriptors": [
        {
            "key": "path",
            "value": "/a*",
            "share_threshold": True,
            "on_store_failure": "DENY",
            "charge": "IF_ALLOWED",
            "limits": [
                {"name": "burst", "mode": "SHADOW", "token_bucket": {
                    "capacity": "5", "refill_tokens": "2", "refill_period": "1.500s"}},
                {"name": "daily", "mode": "ENFORCE", "quota": {"amount": "9", "window": "DAY"}, "replaces": ["x"],
                 "counts": "CALLS", "overdraft": {"unbounded": True}},
                {"name": "owes", "mode": "ENFORCE", "quota": {"amount": "9", "window": "HOUR"},
                 "overdraft": {"tokens": "7"}},
            ],
            "descriptors": [
                {"key": "method", "value": "GET", "limits": [{"mode": "ENFORCE", "unlimited": {}}]},
                {"key": "method", "limits": [{"mode": "ENFORCE", "blocked": {}}]},
            ],
        }
    ],
}  # fmt: skip


def request(**action: object) -> ManageRulesRequest:
    """A request with one action, in proto3 JSON."""
    return ParseDict(action, ManageRulesRequest())


@pytest.fixture
def manage(control_plane: ControlPlane) -> Callable[..., object]:
    """Return a function that calls ManageRules, by default as an admin."""

    async def call(caller: Caller = ADMIN, **action: object) -> ManageRulesResponse:
        return await control_plane.service.manage_rules(request(**action), caller)

    return call


def shown(rules: DomainRules) -> dict[str, object]:
    """Rules as proto3 JSON, without what the server sets."""
    document = MessageToDict(rules, preserving_proto_field_name=True)
    return {name: value for name, value in document.items() if name in SHOP}


async def test_all_actions(manage: Callable[..., object]) -> None:
    """Rules are put in force, read, listed without their descriptors, replaced and deleted; each result mirrors."""
    made = (await manage(replace={"rules": SHOP})).replace.rules
    assert shown(made) == SHOP
    assert (made.version, made.create_time, made.update_time) == (1, made.update_time, made.create_time)
    assert (await manage(VIEWER, get={"domain": "shop"})).get.rules == made
    listed = (await manage(VIEWER, list={})).list
    assert [(one.domain, one.version, len(one.descriptors)) for one in listed.domains] == [("shop", 1, 0)]
    again = (await manage(replace={"rules": {"domain": "shop", "etag": made.etag}})).replace.rules
    assert (again.version, again.on_store_failure, again.description) == (2, DomainRules.FAIL, "")
    assert (await manage(get={"domain": "shop", "version": 1})).get.rules.descriptors == made.descriptors
    assert (await manage(delete={"domain": "shop"})).delete.rules == again
    with pytest.raises(NotFound):
        await manage(get={"domain": "shop"})


async def test_what_was_read_can_be_sent_back(manage: Callable[..., object]) -> None:
    """The message of a response is a message to replace with, once: its etag is old afterwards."""
    made = (await manage(replace={"rules": SHOP})).replace.rules
    back = MessageToDict(made)
    assert (await manage(replace={"rules": back})).replace.rules.descriptors == made.descriptors
    with pytest.raises(Aborted):
        await manage(replace={"rules": back})


async def test_every_etag_that_is_sent_is_compared(manage: Callable[..., object]) -> None:
    """Replacing, checking and deleting rules with an etag that is not the current one is ABORTED."""
    await manage(replace={"rules": {"domain": "shop"}})
    for action in (
        {"replace": {"rules": {"domain": "shop", "etag": "stale"}}},
        {"replace": {"rules": {"domain": "shop", "etag": "stale"}, "validate_only": True}},
        {"delete": {"domain": "shop", "etag": "stale"}},
    ):
        with pytest.raises(Aborted):
            await manage(**action)


async def test_validate_only(manage: Callable[..., object]) -> None:
    """With validate_only the response is what would be in force, and nothing is."""
    response = (await manage(replace={"rules": SHOP, "validate_only": True})).replace.rules
    assert shown(response) == SHOP
    with pytest.raises(NotFound):
        await manage(get={"domain": "shop"})
    with pytest.raises(InvalidArgument):
        await manage(replace={"rules": {"domain": "shop", "descriptors": [{}]}, "validate_only": True})


@pytest.mark.parametrize("action", ["get", "list"])
async def test_reading_needs_a_viewer(manage: Callable[..., object], action: str) -> None:
    """An anonymous caller and a gateway may not read."""
    for caller in (ANONYMOUS, GATEWAY):
        with pytest.raises(PermissionDenied):
            await manage(caller, **{action: {}})


@pytest.mark.parametrize("action", ["replace", "delete"])
async def test_changing_needs_an_admin(manage: Callable[..., object], action: str) -> None:
    """A viewer may not change anything, nor check rules."""
    for caller in (ANONYMOUS, VIEWER, GATEWAY):
        with pytest.raises(PermissionDenied):
            await manage(caller, **{action: {}})


def one(**rule: object) -> dict[str, object]:
    """Rules with this descriptor below another one."""
    return {"domain": "d", "descriptors": [{"key": "a"}, {"key": "b", "descriptors": [{"key": "c"} | rule]}]}


def deep(levels: int) -> dict[str, object]:
    """Rules with so many levels."""
    rule: dict[str, object] = {"key": "k"}
    for _ in range(levels - 1):
        rule = {"key": "k", "descriptors": [rule]}
    return {"domain": "d", "descriptors": [rule]}


BELOW = "replace.rules.descriptors[1].descriptors[0]"


@pytest.mark.parametrize(
    ("action", "field"),
    [
        ({}, "action"),
        ({"replace": {}}, "replace.rules"),
        ({"replace": {"rules": {}}}, "replace.rules.domain"),
        ({"replace": {"rules": {"domain": "d", "description": "x" * 257}}}, "replace.rules.description"),
        ({"replace": {"rules": {"domain": "d", "etag": "x" * 65}}}, "replace.rules.etag"),
        ({"replace": {"rules": {"domain": "d", "on_store_failure": 9}}}, "replace.rules.on_store_failure"),
        ({"replace": {"rules": one(key="")}}, f"{BELOW}.key"),
        ({"replace": {"rules": one(value="v" * 257)}}, f"{BELOW}.value"),
        ({"replace": {"rules": one(share_threshold=True)}}, f"{BELOW}.share_threshold"),
        ({"replace": {"rules": one(on_store_failure=9)}}, f"{BELOW}.on_store_failure"),
        ({"replace": {"rules": one(limits=[{}])}}, f"{BELOW}.limits[0].algorithm"),
        ({"replace": {"rules": one(limits=[{"mode": 9, "unlimited": {}}])}}, f"{BELOW}.limits[0].mode"),
        ({"replace": {"rules": one(limits=[{"name": '"', "unlimited": {}}])}}, f"{BELOW}.limits[0].name"),
        ({"replace": {"rules": one(limits=[{"unlimited": {}, "replaces": [""]}])}}, f"{BELOW}.limits[0].replaces[0]"),
        ({"replace": {"rules": one(limits=[{"quota": {"amount": 1}}])}}, f"{BELOW}.limits[0].quota.window"),
        ({"replace": {"rules": one(limits=[{"quota": {"window": "DAY"}}])}}, f"{BELOW}.limits[0].quota.amount"),
        ({"replace": {"rules": one(limits=[{"token_bucket": {"capacity": 1, "refill_tokens": 1}}])}},
         f"{BELOW}.limits[0].token_bucket.refill_period"),
        ({"replace": {"rules": one(descriptors=[{"key": "x"}, {"key": "x"}])}}, f"{BELOW}.descriptors[1]"),
        ({"replace": {"rules": {"domain": "d", "descriptors": [{"key": "x"}] * 2}}}, "replace.rules.descriptors[1]"),
        ({"replace": {"rules": deep(17)}}, "replace.rules" + ".descriptors[0]" * 17 + ".key"),
        ({"get": {}}, "get.domain"),
        ({"get": {"domain": "d", "version": -1}}, "get.version"),
        ({"list": {"page_size": 1001}}, "list.page_size"),
        ({"list": {"page_token": "x"}}, "list.page_token"),
        ({"delete": {}}, "delete.domain"),
    ],
)  # fmt: skip
async def test_bad_input_names_the_field(manage: Callable[..., object], action: dict[str, object], field: str) -> None:
    """Rules or arguments out of bounds are rejected with the path of the invalid field."""
    with pytest.raises(InvalidArgument) as caught:
        await manage(**action)
    assert [violation.field for violation in caught.value.violations] == [field]


async def test_at_most_sixteen_invalid_fields_are_named(manage: Callable[..., object]) -> None:
    """All invalid fields of a tree are named at once, up to sixteen."""
    bad = {"domain": "d", "descriptors": [{"key": f"k{n}", "limits": [{}, {}]} for n in range(20)]}
    with pytest.raises(InvalidArgument) as caught:
        await manage(replace={"rules": bad})
    fields = [violation.field for violation in caught.value.violations]
    assert fields[:3] == [
        "replace.rules.descriptors[0].limits[0].algorithm",
        "replace.rules.descriptors[0].limits[1].algorithm",
        "replace.rules.descriptors[1].limits[0].algorithm",
    ]
    assert len(fields) == 16


async def test_sixteen_levels_are_valid(manage: Callable[..., object]) -> None:
    """As many levels as a descriptor may have entries."""
    assert (await manage(replace={"rules": deep(16)})).replace.rules.version == 1
