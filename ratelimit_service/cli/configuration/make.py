"""Makes one change of the configuration, by the calls that the commands for its kind make.

None undoes what somebody else has changed since it was compared. Plans, rules and fields of keys are changed with the
etag that was compared, and what is created must not exist. For what the API has no etag (overrides, the state of a key,
the first rules of a domain) the item is read again just before: only what is changed between that and the change is not
noticed.
"""

from typing import Final

from google.protobuf.field_mask_pb2 import FieldMask

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import (
    ManageKeyRequest,
    ManageOverrideRequest,
    ManagePlanRequest,
    ManageRulesRequest,
)
from ratelimit_service._gen.ratelimit.v1.key_pb2 import Key
from ratelimit_service._gen.ratelimit.v1.plan_pb2 import Plan
from ratelimit_service._gen.ratelimit.v1.rules_pb2 import DomainRules
from ratelimit_service.cli.client import Client
from ratelimit_service.cli.configuration.changes import Change
from ratelimit_service.cli.configuration.item import Item, Kind
from ratelimit_service.cli.configuration.server import read_item
from ratelimit_service.cli.errors import CommandError, Exit

_UPDATABLE: Final = ("plan", "description", "expire_time", "labels")


def make(client: Client, change: Change, confirmation: str) -> None:
    """Make a change, against what was compared: one that somebody else has made since is refused.

    CONFIRMATION is empty, or confirms it. Raises ConfirmationNeeded and other CommandErrors.
    """
    if not client.is_rehearsal and _lacks_etag(change):
        _check_unchanged(client, change)
    match change.item.kind:
        case Kind.PLAN:
            _make_plan(client, change, confirmation)
        case Kind.RULES:
            _make_rules(client, change, confirmation)
        case Kind.KEY:
            _make_key(client, change)
        case Kind.OVERRIDE:
            _make_override(client, change, confirmation)


def _lacks_etag(change: Change) -> bool:
    """Whether the API would make a change whatever the item has become."""
    old, new = change.old, change.new
    if change.item.kind is Kind.KEY:
        return old is not None and (new is None or old.key.state != new.key.state)
    return change.item.kind is Kind.OVERRIDE or (change.item.kind is Kind.RULES and old is None)


def _check_unchanged(client: Client, change: Change) -> None:
    """Read the item again. Raises CommandError unless it is as it was compared."""
    now = read_item(client, change.item)
    if (now.message if now else None) != (change.old.message if change.old else None):
        raise CommandError(
            Exit.REFUSED, "was modified concurrently, after it was compared", "apply again to compare it anew"
        )


def _make_plan(client: Client, change: Change, confirmation: str) -> None:
    if change.old is None:
        client.manage_plan(ManagePlanRequest(create=ManagePlanRequest.CreatePlan(plan=change.item.plan)))
    elif change.new is None:
        action = ManagePlanRequest.DeletePlan(name=change.old.plan.name, etag=change.old.etag)
        client.manage_plan(ManagePlanRequest(delete=action))
    else:
        plan = Plan(etag=change.old.etag)
        plan.MergeFrom(change.new.plan)
        mask = FieldMask(paths=change.fields)
        update = ManagePlanRequest.UpdatePlan(plan=plan, update_mask=mask, confirmation=confirmation)
        client.manage_plan(ManagePlanRequest(update=update))


def _make_rules(client: Client, change: Change, confirmation: str) -> None:
    etag = change.old.etag if change.old else ""
    if change.new is None:
        delete = ManageRulesRequest.DeleteRules(domain=change.item.rules.domain, etag=etag, confirmation=confirmation)
        client.manage_rules(ManageRulesRequest(delete=delete))
        return
    rules = DomainRules(etag=etag)
    rules.MergeFrom(change.new.rules)
    replace = ManageRulesRequest.ReplaceRules(rules=rules, confirmation=confirmation)
    client.manage_rules(ManageRulesRequest(replace=replace))


def _make_key(client: Client, change: Change) -> None:
    key_id = change.item.key.key_id
    if change.new is None:
        client.manage_key(ManageKeyRequest(revoke=ManageKeyRequest.RevokeKey(key_id=key_id)))
        return
    wanted = change.new.key
    if change.old is None:
        client.manage_key(ManageKeyRequest(create=_new_key(wanted)))
        state = Key.ACTIVE
    else:
        _update_key(client, change.old, wanted, [name for name in change.fields if name in _UPDATABLE])
        state = change.old.key.state
    if client.is_rehearsal and change.old is None:
        return  # there is no key yet whose state could be changed
    if wanted.state == Key.SUSPENDED and state != Key.SUSPENDED:
        client.manage_key(ManageKeyRequest(suspend=ManageKeyRequest.SuspendKey(key_id=key_id)))
    elif wanted.state != Key.SUSPENDED and state == Key.SUSPENDED:
        client.manage_key(ManageKeyRequest(resume=ManageKeyRequest.ResumeKey(key_id=key_id)))


def _new_key(key: Key) -> ManageKeyRequest.CreateKey:
    return ManageKeyRequest.CreateKey(
        key_id=key.key_id,
        without_secret=True,
        subject=key.subject,
        plan=key.plan,
        description=key.description,
        labels=key.labels,
        expire_time=key.expire_time if key.HasField("expire_time") else None,
    )


def _update_key(client: Client, old: Item, wanted: Key, fields: list[str]) -> None:
    if not fields:
        return
    key = Key(etag=old.etag)
    key.MergeFrom(wanted)
    update = ManageKeyRequest.UpdateKey(key=key, update_mask=FieldMask(paths=fields))
    client.manage_key(ManageKeyRequest(update=update))


def _make_override(client: Client, change: Change, confirmation: str) -> None:
    set_for = change.item.set_for
    request = ManageOverrideRequest()
    if set_for.HasField("key_id"):
        request.key_id = set_for.key_id
    else:
        request.subject = set_for.subject
    if change.new is None:
        request.delete.limit = set_for.override.limit.name
        request.delete.confirmation = confirmation
    else:
        request.set.override.CopyFrom(set_for.override)
        request.set.confirmation = confirmation
    client.manage_override(request)
