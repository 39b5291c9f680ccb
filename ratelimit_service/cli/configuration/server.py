"""The configuration of a server: all of it, read page by page, or one item."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.message import Message

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import (
    ManageKeyRequest,
    ManageOverrideRequest,
    ManagePlanRequest,
    ManageRulesRequest,
)
from ratelimit_service._gen.ratelimit.v1.key_pb2 import Key
from ratelimit_service.cli.client import Client
from ratelimit_service.cli.configuration.canonical import without_server_fields
from ratelimit_service.cli.configuration.item import Item, Kind, SetFor, target_of
from ratelimit_service.cli.errors import NotFound

_PAGE: Final = 1_000


@dataclass(frozen=True)
class Configured:
    """What a server has, by name. Revoked keys and what is set for them are not configured: only their names are here.

    Overrides that have expired are left out.
    """

    items: Mapping[str, Item]
    revoked: frozenset[str]


def read_server(client: Client) -> Configured:
    """Read all plans, rules, keys and overrides, in the order of kinds. Raises CommandError."""
    items: dict[str, Item] = {}
    revoked: set[str] = set()
    for item in (*_plans(client), *_rules(client), *_keys(client)):
        if item.kind is Kind.KEY and item.key.state == Key.REVOKED:
            revoked.add(item.name)
        else:
            items[item.name] = item
    now = datetime.now(UTC)
    for item in _overrides(client):
        if target_of(item.set_for) not in revoked and not has_expired(item, now):
            items[item.name] = item
    return Configured(items, frozenset(revoked))


def read_item(client: Client, item: Item) -> Item | None:
    """What the server has by the name of ITEM, as `read_server` reads it, revoked keys too. Raises CommandError."""
    try:
        match item.kind:
            case Kind.PLAN:
                plan = client.manage_plan(ManagePlanRequest(get=ManagePlanRequest.GetPlan(name=item.plan.name)))
                return _item(item.kind, plan.get.plan)
            case Kind.RULES:
                return _rules_of(client, item.rules.domain)
            case Kind.KEY:
                key = client.manage_key(ManageKeyRequest(get=ManageKeyRequest.GetKey(key_id=item.key.key_id)))
                return _item(item.kind, key.get.key)
            case Kind.OVERRIDE:
                return _override(client, item.set_for)
    except NotFound:
        return None


def has_expired(item: Item, now: datetime) -> bool:
    """Whether a key, or an override, has ended at the time NOW, in UTC."""
    message: Message = item.set_for.override if item.kind is Kind.OVERRIDE else item.message
    if not message.HasField("expire_time"):
        return False
    expires: datetime = message.expire_time.ToDatetime(UTC)  # type: ignore[attr-defined]  # both have it
    return expires <= now


def _plans(client: Client) -> Iterator[Item]:
    def read(token: str) -> Any:  # noqa: ANN401  a page of plans
        action = ManagePlanRequest.ListPlans(page_size=_PAGE, page_token=token)
        return client.manage_plan(ManagePlanRequest(list=action)).list

    for page in _pages(read):
        yield from (_item(Kind.PLAN, plan) for plan in page.plans)


def _rules(client: Client) -> Iterator[Item]:
    def read(token: str) -> Any:  # noqa: ANN401  a page of domains
        action = ManageRulesRequest.ListRules(page_size=_PAGE, page_token=token)
        return client.manage_rules(ManageRulesRequest(list=action)).list

    for page in _pages(read):
        for heading in page.domains:
            yield _rules_of(client, heading.domain)


def _rules_of(client: Client, domain: str) -> Item:
    action = ManageRulesRequest.GetRules(domain=domain)
    return _item(Kind.RULES, client.manage_rules(ManageRulesRequest(get=action)).get.rules)


def _keys(client: Client) -> Iterator[Item]:
    def read(token: str) -> Any:  # noqa: ANN401  a page of keys
        action = ManageKeyRequest.ListKeys(page_size=_PAGE, page_token=token)
        return client.manage_key(ManageKeyRequest(list=action)).list

    for page in _pages(read):
        yield from (_item(Kind.KEY, key) for key in page.keys)


def _overrides(client: Client) -> Iterator[Item]:
    def read(token: str) -> Any:  # noqa: ANN401  a page of overrides
        action = ManageOverrideRequest.ListAllOverrides(page_size=_PAGE, page_token=token)
        return client.manage_override(ManageOverrideRequest(list_all=action)).list_all

    for page in _pages(read):
        yield from (Item(Kind.OVERRIDE, set_for) for set_for in page.overrides)


def _override(client: Client, set_for: SetFor) -> Item | None:
    """The override of this target and name, None if there is none, or it has expired."""
    request = ManageOverrideRequest(list=ManageOverrideRequest.ListOverrides())
    if set_for.HasField("key_id"):
        request.key_id = set_for.key_id
    else:
        request.subject = set_for.subject
    name = set_for.override.limit.name
    for override in client.manage_override(request).list.overrides:
        if override.limit.name == name:
            found = SetFor()
            found.CopyFrom(set_for)
            found.override.CopyFrom(override)
            item = Item(Kind.OVERRIDE, found)
            return None if has_expired(item, datetime.now(UTC)) else item
    return None


def _pages(read: Callable[[str], Any]) -> Iterator[Any]:
    token = ""
    while True:
        page = read(token)
        yield page
        token = page.next_page_token
        if not token:
            return


def _item(kind: Kind, message: Any) -> Item:  # noqa: ANN401  a message with an etag
    etag: str = message.etag
    return Item(kind, without_server_fields(kind, message), etag)
