"""KeyAdminService, without a transport, on a real Postgres: requests and responses as grpcurl shows them."""

from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict, ParseDict

from fixtures.control_plane import DAY, SECOND, START, ControlPlane
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as pb
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from ratelimit_service.management.tokens import ANONYMOUS, Caller, Role

ADMIN = Caller("ada", Role.ADMIN)
VIEWER = Caller("vera", Role.VIEWER)
GATEWAY = Caller("edge", Role.GATEWAY)
UNKNOWN = "0123456789abcdef"
PAST = "2020-01-01T00:00:00Z"
LATER, LATEST = "2098-01-01T00:00:00Z", "2099-01-01T00:00:00Z"
FREE = {
    "name": "free",
    "limits": [
        {"name": "burst", "token_bucket": {"capacity": "20", "refill_tokens": "10", "refill_period": "1s"}},
        {"name": "daily", "quota": {"amount": "10000", "window": "DAY"}},
    ],
}


class Console:
    """Calls the service with requests in JSON, and returns the responses in JSON."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self._methods: dict[str, tuple[Any, Any]] = {
            "key": (pb.ManageKeyRequest, plane.service.manage_key),
            "plan": (pb.ManagePlanRequest, plane.service.manage_plan),
            "override": (pb.ManageOverrideRequest, plane.service.manage_override),
            "audit": (pb.ListAuditEventsRequest, plane.service.list_audit_events),
        }

    async def __call__(self, method: str, request: dict[str, Any], caller: Caller = ADMIN) -> dict[str, Any]:
        """Make one call."""
        message, call = self._methods[method]
        response = await call(ParseDict(request, message()), caller)
        return MessageToDict(response, preserving_proto_field_name=True)

    async def key(self, **draft: object) -> dict[str, Any]:
        """Make a key on the plan free, and return it."""
        created = await self("key", {"create": {"plan": "free", "subject": "acme"} | draft})
        key: dict[str, Any] = created["create"]["key"]
        return key

    async def invalid_fields(self, method: str, request: dict[str, Any]) -> list[str]:
        """Make a call that is an invalid argument, and return the fields that it names."""
        with pytest.raises(InvalidArgument) as caught:
            await self(method, request)
        return [violation.field for violation in caught.value.violations]


@pytest_asyncio.fixture
async def console(control_plane: ControlPlane) -> Console:
    """Give the console the plan free."""
    console = Console(control_plane)
    await console("plan", {"create": {"plan": FREE}})
    return console


async def test_a_key_is_made_with_its_secret(console: Console) -> None:
    """Create returns the key and its secret in full; get and list return the same key and no secret."""
    created = (await console("key", {"create": {"plan": "free", "subject": "acme", "description": "first"}}))["create"]

    key = created["key"]
    assert key == {
        "key_id": key["key_id"],
        "subject": "acme",
        "plan": "free",
        "state": "ACTIVE",
        "description": "first",
        "create_time": "2026-11-24T06:00:00.123456Z",
        "update_time": "2026-11-24T06:00:00.123456Z",
        "etag": key["etag"],
    }
    api_key = ApiKey.parse(created["secret"])
    assert (api_key.environment, api_key.key_id) == ("test", key["key_id"])
    assert await console("key", {"get": {"key_id": key["key_id"]}}) == {"get": {"key": key}}
    assert await console("key", {"list": {}}) == {"list": {"keys": [key]}}


async def test_a_key_is_changed_by_its_mask(console: Console) -> None:
    """Update changes what the mask names and nothing else; what is absent from the key is cleared."""
    key = await console.key(description="first", expire_time="2026-11-25T00:00:00Z")

    request = {"key": {"key_id": key["key_id"], "description": "ignored"}, "update_mask": "expireTime"}
    updated = (await console("key", {"update": request}))["update"]["key"]

    assert updated["description"] == "first"
    assert "expire_time" not in updated
    assert updated["etag"] != key["etag"]


async def test_a_key_shows_its_overrides_and_its_rotation(console: Console) -> None:
    """A key's own overrides and the end of its previous secret are shown, the latter until it has passed."""
    key_id = (await console.key())["key_id"]
    override = {"limit": {"name": "daily", "quota": {"amount": "5", "window": "DAY"}}}
    await console("override", {"key_id": key_id, "set": {"override": override}})

    rotated = (await console("key", {"rotate": {"key_id": key_id, "overlap": "60s"}}))["rotate"]

    assert ApiKey.parse(rotated["secret"]).key_id == key_id
    assert rotated["key"]["previous_secret_expire_time"] == "2026-11-24T06:01:00.123456Z"
    assert [one["limit"]["name"] for one in rotated["key"]["overrides"]] == ["daily"]
    console.plane.clock.us += 60 * SECOND
    assert "previous_secret_expire_time" not in (await console("key", {"get": {"key_id": key_id}}))["get"]["key"]


async def test_a_keys_state_is_shown_as_it_stands(console: Console) -> None:
    """The state goes through SUSPENDED, ACTIVE, EXPIRED and REVOKED as time and admins move it."""
    key_id = (await console.key(expire_time="2026-11-24T07:00:00Z"))["key_id"]

    async def state(action: str) -> str:
        response: str = (await console("key", {action: {"key_id": key_id}}))[action]["key"]["state"]
        return response

    assert await state("suspend") == "SUSPENDED"
    assert await state("resume") == "ACTIVE"
    console.plane.clock.us = START + DAY
    assert await state("get") == "EXPIRED"
    assert await state("revoke") == "REVOKED"
    assert await state("get") == "REVOKED"


async def test_lists_come_in_pages(console: Console) -> None:
    """Each list gives page_size items and the token of the next page, and none with the last."""
    made = [(await console.key())["key_id"] for _ in range(3)]
    first = (await console("key", {"list": {"page_size": 2, "plan": "free"}}))["list"]
    token = first["next_page_token"]
    second = (await console("key", {"list": {"page_size": 2, "plan": "free", "page_token": token}}))["list"]
    assert [key["key_id"] for key in first["keys"] + second["keys"]] == made
    assert "next_page_token" not in second

    await console("plan", {"create": {"plan": FREE | {"name": "another"}}})
    plans = (await console("plan", {"list": {"page_size": 1}}))["list"]
    rest = (await console("plan", {"list": {"page_token": plans["next_page_token"]}}))["list"]
    assert [plan["name"] for plan in plans["plans"] + rest["plans"]] == ["another", "free"]

    events = await console("audit", {"page_size": 1})
    older = await console("audit", {"page_token": events["next_page_token"]})
    assert [event["action"] for event in events["events"] + older["events"]] == [
        "plan.create",
        "key.create",
        "key.create",
        "key.create",
        "plan.create",
    ]


async def test_a_plan_goes_through_its_life(console: Console) -> None:
    """A plan is made, read, changed by its mask, read in its first version, and deleted."""
    made = (await console("plan", {"get": {"name": "free"}}))["get"]["plan"]
    assert made["limits"][0]["token_bucket"] == FREE["limits"][0]["token_bucket"]  # type: ignore[index]
    assert (made["version"], made["on_store_failure"]) == ("1", "LOCAL")

    change = {"name": "free", "on_store_failure": "DENY", "description": "ignored", "etag": made["etag"]}
    updated = (await console("plan", {"update": {"plan": change, "update_mask": "onStoreFailure"}}))["update"]["plan"]

    assert (updated["version"], updated["on_store_failure"]) == ("2", "DENY")
    assert updated["limits"] == made["limits"]
    assert "description" not in updated
    assert (await console("plan", {"get": {"name": "free", "version": "1"}}))["get"]["plan"] == made
    assert (await console("plan", {"delete": {"name": "free", "etag": updated["etag"]}}))["delete"]["plan"] == updated


async def test_the_audit_record_names_actor_and_change(console: Console) -> None:
    """An audit event has its actor, action, target, time, and the values that were set."""
    await console("plan", {"update": {"plan": {"name": "free", "description": "new"}, "update_mask": "description"}})

    events = (await console("audit", {"target": "plans/free"}))["events"]

    assert events[0] == {
        "event_id": events[0]["event_id"],
        "time": "2026-11-24T06:00:00.123456Z",
        "actor": "ada",
        "action": "plan.update",
        "target": "plans/free",
        "detail": {"version": 2.0, "description": "new"},
        "previous": {"version": 1.0, "description": ""},
    }


async def test_overrides_are_managed(console: Console) -> None:
    """Set and delete return all overrides of the target after the change, list all there are."""
    limit = {"name": "daily", "resource": "*", "mode": "ENFORCE", "counts": "COST"}
    daily = {"limit": limit | {"quota": {"amount": "5", "window": "DAY"}}}
    ended = daily | {"expire_time": "2026-11-24T06:30:00Z"}

    assert await console("override", {"subject": "acme", "set": {"override": ended}}) == {"set": {"overrides": [ended]}}
    assert await console("override", {"subject": "acme", "list": {}}) == {"list": {"overrides": [ended]}}
    assert await console("override", {"subject": "acme", "delete": {"limit": "daily"}}) == {"delete": {}}


async def test_each_invalid_field_is_named_by_its_path(console: Console) -> None:
    """Every field out of bounds is named by its path from the request, whichever action it belongs to."""
    key = (await console.key())["key_id"]
    zero = {"name": "x", "token_bucket": {"capacity": "0", "refill_tokens": "1", "refill_period": "1s"}}
    valid = FREE["limits"]
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("key", {}, "action"),
        ("key", {"create": {}}, "create.plan"),
        ("key", {"create": {"plan": "free"}}, "create.subject"),
        (
            "key",
            {"create": {"plan": "free", "subject": "a", "expire_time": "2020-01-01T00:00:00Z"}},
            "create.expire_time",
        ),
        ("key", {"get": {}}, "get.key_id"),
        ("key", {"list": {"page_size": 1001}}, "list.page_size"),
        ("key", {"list": {"page_size": -1}}, "list.page_size"),
        ("key", {"list": {"page_token": "x"}}, "list.page_token"),
        ("key", {"list": {"subject": "x" * 129}}, "list.subject"),
        ("key", {"list": {"subject": " acme"}}, "list.subject"),
        ("override", {"subject": "acme ", "set": {"override": {"limit": valid[1]}}}, "set.subject"),
        ("key", {"list": {"plan": "X"}}, "list.plan"),
        ("key", {"update": {}}, "update.key"),
        ("key", {"update": {"key": {"key_id": key}}}, "update.update_mask"),
        ("key", {"update": {"key": {"key_id": key}, "update_mask": "subject"}}, "update.update_mask"),
        ("key", {"update": {"key": {"key_id": key}, "update_mask": "plan"}}, "update.key.plan"),
        ("key", {"update": {"key": {"key_id": ""}, "update_mask": "description"}}, "update.key.key_id"),
        (
            "key",
            {"update": {"key": {"key_id": key, "etag": "x" * 65}, "update_mask": "description"}},
            "update.key.etag",
        ),
        ("key", {"rotate": {"key_id": key, "overlap": "2592001s"}}, "rotate.overlap"),
        ("key", {"rotate": {"key_id": key, "overlap": "-1s"}}, "rotate.overlap"),
        ("key", {"suspend": {"key_id": "?"}}, "suspend.key_id"),
        ("key", {"resume": {}}, "resume.key_id"),
        ("key", {"revoke": {}}, "revoke.key_id"),
        ("plan", {}, "action"),
        ("plan", {"create": {}}, "create.plan"),
        ("plan", {"create": {"plan": {}}}, "create.plan.name"),
        ("plan", {"create": {"plan": {"name": "x"}}}, "create.plan.limits"),
        ("plan", {"create": {"plan": FREE | {"on_store_failure": 9}}}, "create.plan.on_store_failure"),
        (
            "plan",
            {"create": {"plan": {"name": "x", "limits": [*valid, zero]}}},
            "create.plan.limits[2].token_bucket.capacity",
        ),
        ("plan", {"create": {"plan": {"name": "x", "limits": [*valid, *valid[:1]]}}}, "create.plan.limits[2].name"),
        ("plan", {"get": {}}, "get.name"),
        ("plan", {"get": {"name": "free", "version": "-1"}}, "get.version"),
        ("plan", {"list": {"page_size": 1001}}, "list.page_size"),
        ("plan", {"update": {"plan": {"name": "free"}}}, "update.update_mask"),
        ("plan", {"update": {"plan": {"name": "free"}, "update_mask": "name"}}, "update.update_mask"),
        ("plan", {"update": {"plan": {"name": "free"}, "update_mask": "limits"}}, "update.plan.limits"),
        (
            "plan",
            {"update": {"plan": {"name": "free", "limits": [zero]}, "update_mask": "limits"}},
            "update.plan.limits[0].token_bucket.capacity",
        ),
        ("plan", {"delete": {}}, "delete.name"),
        ("override", {"subject": "a"}, "action"),
        ("override", {"list": {}}, "target"),
        ("override", {"key_id": "x", "list": {}}, "key_id"),
        ("override", {"subject": "", "list": {}}, "subject"),
        ("override", {"subject": "a", "set": {}}, "set.override"),
        ("override", {"subject": "a", "set": {"override": {}}}, "set.override.limit"),
        (
            "override",
            {"subject": "a", "set": {"override": {"limit": zero}}},
            "set.override.limit.token_bucket.capacity",
        ),
        (
            "override",
            {"subject": "a", "set": {"override": {"limit": valid[1], "expire_time": PAST}}},
            "set.override.expire_time",
        ),
        ("override", {"subject": "a", "delete": {}}, "delete.limit"),
        ("audit", {"page_size": 1001}, "page_size"),
        ("audit", {"page_token": "x"}, "page_token"),
    ]

    for method, request, field in cases:
        assert await console.invalid_fields(method, request) == [field], request


async def test_other_errors_pass_through(console: Console) -> None:
    """An error other than an invalid argument reaches the caller unchanged, with its reason."""
    await console.key()
    stale = {"name": "free", "etag": "stale"}

    for method, request, kind, reason in (
        ("key", {"get": {"key_id": UNKNOWN}}, NotFound, "KEY_NOT_FOUND"),
        ("key", {"create": {"plan": "gold", "subject": "a"}}, NotFound, "PLAN_NOT_FOUND"),
        ("plan", {"create": {"plan": FREE}}, AlreadyExists, "PLAN_EXISTS"),
        ("plan", {"update": {"plan": stale, "update_mask": "description"}}, Aborted, "ETAG_MISMATCH"),
        ("plan", {"delete": {"name": "free"}}, FailedPrecondition, "PLAN_IN_USE"),
        ("override", {"key_id": UNKNOWN, "list": {}}, NotFound, "KEY_NOT_FOUND"),
        ("override", {"subject": "a", "delete": {"limit": "x"}}, NotFound, "OVERRIDE_NOT_FOUND"),
    ):
        with pytest.raises(kind) as caught:
            await console(method, request)
        assert caught.value.reason == reason


READS: list[tuple[str, dict[str, Any]]] = [
    ("key", {"get": {"key_id": UNKNOWN}}),
    ("key", {"list": {}}),
    ("plan", {"get": {"name": "free"}}),
    ("plan", {"list": {}}),
    ("override", {"subject": "acme", "list": {}}),
    ("audit", {}),
]
CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("key", {}),
    ("plan", {}),
    ("override", {}),
    *(("key", {action: {}}) for action in ("create", "update", "rotate", "suspend", "resume", "revoke")),
    *(("plan", {action: {}}) for action in ("create", "update", "delete")),
    *(("override", {"subject": "acme", action: {}}) for action in ("set", "delete")),
]


async def test_every_etag_that_is_sent_is_compared(console: Console) -> None:
    """Updating a key, and updating or deleting a plan, with an etag that is not the current one is ABORTED."""
    key_id = (await console.key())["key_id"]
    for method, request in (
        ("key", {"update": {"key": {"key_id": key_id, "etag": "stale"}, "update_mask": "description"}}),
        ("plan", {"update": {"plan": {"name": "free", "etag": "stale"}, "update_mask": "description"}}),
        ("plan", {"delete": {"name": "free", "etag": "stale"}}),
    ):
        with pytest.raises(Aborted):
            await console(method, request)


async def test_a_viewer_reads_and_changes_nothing(console: Console) -> None:
    """A viewer may get, list and read the audit record; every change is rejected before the request is read."""
    for method, request in READS:
        if "get" in request and method == "key":
            with pytest.raises(NotFound):
                await console(method, request, VIEWER)
        else:
            await console(method, request, VIEWER)
    for method, request in CHANGES:
        with pytest.raises(PermissionDenied) as caught:
            await console(method, request, VIEWER)
        assert caught.value.reason == "ROLE_INSUFFICIENT"
        assert caught.value.metadata == {"role": "viewer", "needed": "admin"}


@pytest.mark.parametrize("caller", [GATEWAY, ANONYMOUS], ids=["gateway", "anonymous"])
async def test_others_may_do_nothing(console: Console, caller: Caller) -> None:
    """A gateway, and one who sent no token, may neither read nor change."""
    for method, request in [*READS, *CHANGES]:
        with pytest.raises(PermissionDenied):
            await console(method, request, caller)


async def test_a_refused_change_leaves_no_trace(control_plane: ControlPlane) -> None:
    """A change that the caller's role does not allow is neither made nor recorded."""
    console = Console(control_plane)
    with pytest.raises(PermissionDenied):
        await console("plan", {"create": {"plan": FREE}}, VIEWER)

    assert await console("plan", {"list": {}}) == {"list": {}}
    assert await console("audit", {}) == {}


async def test_a_secret_sent_as_an_id_is_not_repeated(console: Console) -> None:
    """An API key sent by mistake where its id belongs is refused without its secret in the message."""
    api_key = ApiKey.generate("test")

    for method, request in (
        ("key", {"get": {"key_id": str(api_key)}}),
        ("key", {"revoke": {"key_id": str(api_key)}}),
        ("override", {"key_id": str(api_key), "list": {}}),
    ):
        with pytest.raises(InvalidArgument) as caught:
            await console(method, request)
        assert api_key.secret not in caught.value.message


async def test_a_key_s_labels_are_managed(console: Console) -> None:
    """Labels are created, listed by, and replaced by a mask that names them."""
    key = await console.key(labels={"team": "search", "tier": "1"})
    await console.key(labels={"team": "ads"})
    assert key["labels"] == {"team": "search", "tier": "1"}
    assert (await console("key", {"list": {"labels": {"team": "search"}}}))["list"]["keys"] == [key]
    change = {"key": {"key_id": key["key_id"], "labels": {"tier": "2"}}, "update_mask": "labels"}
    assert (await console("key", {"update": change}))["update"]["key"]["labels"] == {"tier": "2"}
    assert await console.invalid_fields("key", {"list": {"labels": {"Team": ""}}}) == ["list.labels"]


async def test_keys_are_listed_by_every_filter(console: Console) -> None:
    """Each filter of the request reaches the list: state, prefix, expiry, last use and search."""
    made = (await console("key", {"create": {"plan": "free", "subject": "acme", "expire_time": LATER}}))["create"]
    key, other = made["key"], await console.key(subject="other")
    await console("key", {"suspend": {"key_id": other["key_id"]}})

    async def ids(**filters: object) -> list[str]:
        page = (await console("key", {"list": filters}))["list"]
        return [one["key_id"] for one in page.get("keys", [])]

    assert await ids(state="ACTIVE") == await ids(expires_before=LATEST) == await ids(expires_after=LATER)
    assert await ids(state="ACTIVE") == await ids(subject_prefix="ac") == await ids(search=made["secret"])
    assert await ids(state="ACTIVE") == [key["key_id"]]
    assert await ids(state="SUSPENDED") == await ids(search=other["key_id"][:8]) == [other["key_id"]]
    assert await ids(never_used=True) == await ids(never_used=True, last_used_before=PAST)
    assert await ids(last_used_before=LATEST) == await ids(expires_after=LATEST) == []
    assert await console.invalid_fields("key", {"list": {"state": 9}}) == ["list.state"]


async def test_a_pasted_secret_is_in_no_error(console: Console) -> None:
    """A search without a public part, such as a secret alone, is an error that does not repeat it."""
    made = (await console("key", {"create": {"plan": "free", "subject": "acme"}}))["create"]
    secret = made["secret"].rpartition("_")[2]
    with pytest.raises(InvalidArgument, match=r"list\.search: has no key id") as caught:
        await console("key", {"list": {"search": secret}})
    assert secret not in str(caught.value)


async def test_many_keys_are_created_and_changed(console: Console) -> None:
    """A bulk action has a result for each item, in order: the key, or the reason why not, in words and metadata."""
    drafts = [
        {"plan": "free", "subject": "a", "labels": {"team": "x"}},
        {"plan": "gold", "subject": "b"},
        {"plan": "free", "subject": "c", "expire_time": {"nanos": -1}},
    ]
    request = pb.ManageKeyRequest()
    for draft in drafts:
        item = request.bulk_create.keys.add(plan=draft["plan"], subject=draft["subject"], labels=draft.get("labels"))
        if "expire_time" in draft:
            item.expire_time.nanos = -1
    response = await console.plane.service.manage_key(request, ADMIN)
    created, unknown, unread = MessageToDict(response, preserving_proto_field_name=True)["bulk_create"]["results"]

    key = created["created"]["key"]
    assert (key["subject"], key["labels"]) == ("a", {"team": "x"})
    assert ApiKey.parse(created["created"]["secret"]).key_id == key["key_id"]
    assert (unknown["error"]["reason"], unknown["error"]["metadata"]) == ("PLAN_NOT_FOUND", {"plan": "gold"})
    assert (unread["error"]["reason"], unread["error"]["message"][:11]) == ("INVALID_FIELD", "expire_time")

    for action, state in (("bulk_suspend", "SUSPENDED"), ("bulk_resume", "ACTIVE"), ("bulk_revoke", "REVOKED")):
        results = (await console("key", {action: {"key_ids": [key["key_id"], UNKNOWN]}}))[action]["results"]
        assert results[0]["key"]["state"] == state
        assert results[1]["error"] == {
            "reason": "KEY_NOT_FOUND",
            "message": f"there is no key {UNKNOWN}: list keys to see what exists",
            "metadata": {"key_id": UNKNOWN},
        }


@pytest.mark.parametrize("action", ["bulk_create", "bulk_suspend", "bulk_resume", "bulk_revoke"])
async def test_a_bulk_action_needs_an_admin_and_an_item(console: Console, action: str) -> None:
    """A viewer may not change many keys either, and a bulk action without an item names its field."""
    with pytest.raises(PermissionDenied):
        await console("key", {action: {}}, VIEWER)
    field = "keys" if action == "bulk_create" else "key_ids"
    assert await console.invalid_fields("key", {action: {}}) == [f"{action}.{field}"]


async def test_audit_events_are_listed_by_every_filter(console: Console) -> None:
    """Each filter of the request reaches the list: prefix, actor, action and time."""
    await console.key()

    async def actions(**filters: object) -> list[str]:
        return [event["action"] for event in (await console("audit", filters)).get("events", [])]

    assert await actions(target_prefix="plans/") == await actions(action="plan.create") == ["plan.create"]
    assert await actions(actor="ada") == await actions(start_time=PAST, end_time=LATEST)
    assert await actions(actor="eve") == await actions(start_time=LATER) == await actions(end_time=PAST) == []
    assert await console.invalid_fields("audit", {"start_time": PAST, "end_time": PAST}) == ["end_time"]


async def test_what_is_only_validated_changes_nothing(console: Console) -> None:
    """An action with `validate_only` needs the same role, is refused for the same reasons, and makes no secret."""
    key = await console.key()
    tried = [
        ("key", {"create": {"plan": "free", "subject": "new"}}, {"create": {"plan": "none", "subject": "new"}}),
        ("key", {"rotate": {"key_id": key["key_id"]}}, {"rotate": {"key_id": UNKNOWN}}),
        ("key", {"revoke": {"key_id": key["key_id"]}}, {"revoke": {"key_id": UNKNOWN}}),
        ("plan", {"delete": {"name": "other"}}, {"delete": {"name": "free"}}),
        ("plan", {"create": {"plan": FREE | {"name": "made"}}}, {"create": {"plan": FREE}}),
        (
            "override",
            {"subject": "acme", "set": {"override": {"limit": FREE["limits"][0]}}},
            {"subject": "acme", "delete": {"limit": "none"}},
        ),
    ]
    await console("plan", {"create": {"plan": FREE | {"name": "other"}}})
    events = await console("audit", {})
    for method, valid, refused in tried:
        result = await console(method, valid | {"validate_only": True})
        assert "secret" not in str(result)
        with pytest.raises(PermissionDenied):
            await console(method, valid | {"validate_only": True}, VIEWER)
        with pytest.raises((NotFound, FailedPrecondition, AlreadyExists)):
            await console(method, refused | {"validate_only": True})
    bulk = {"bulk_create": {"keys": [{"plan": "free", "subject": "a"}, {"plan": "none", "subject": "b"}]}}
    made, error = (await console("key", bulk | {"validate_only": True}))["bulk_create"]["results"]
    assert (made["created"]["key"]["subject"], error["error"]["reason"]) == ("a", "PLAN_NOT_FOUND")
    assert "secret" not in made["created"]
    read = await console("key", {"get": {"key_id": key["key_id"]}, "validate_only": True}, VIEWER)
    assert read["get"]["key"] == key
    assert await console("audit", {}) == events


async def test_keys_are_created_with_an_id_and_without_a_secret(console: Console) -> None:
    """An id may be chosen, and a key may have no secret until it is rotated."""
    create = {"create": {"plan": "free", "subject": "acme", "key_id": UNKNOWN, "without_secret": True}}
    created = (await console("key", create))["create"]
    assert (created["key"]["key_id"], "secret" in created) == (UNKNOWN, False)
    with pytest.raises(AlreadyExists):
        await console("key", create)
    assert await console.invalid_fields("key", {"create": {"plan": "free", "subject": "a", "key_id": "x"}}) == [
        "create.key_id"
    ]
    secret = (await console("key", {"rotate": {"key_id": UNKNOWN}}))["rotate"]["secret"]
    assert ApiKey.parse(secret).key_id == UNKNOWN


async def test_all_overrides_are_listed(console: Console) -> None:
    """A viewer may list the overrides of all keys and subjects, each with what it was set for."""
    key_id = (await console.key())["key_id"]
    for target in ({"key_id": key_id}, {"subject": "acme"}):
        await console("override", target | {"set": {"override": {"limit": FREE["limits"][1]}}})
    first = (await console("override", {"list_all": {"page_size": 1}}, VIEWER))["list_all"]
    again = {"page_size": 1, "page_token": first["next_page_token"]}
    second = (await console("override", {"list_all": again}, VIEWER))["list_all"]
    assert [first["overrides"][0]["key_id"], second["overrides"][0]["subject"]] == [key_id, "acme"]
    assert second["overrides"][0]["override"]["limit"]["name"] == "daily"
    assert "next_page_token" not in second
    assert await console.invalid_fields("override", {"list_all": {"page_token": "x"}}) == ["list_all.page_token"]
