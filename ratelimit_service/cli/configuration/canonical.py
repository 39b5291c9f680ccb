"""Documents as the server would return them: checked by its own code, and with its defaults filled in."""

from google.protobuf.message import Message

from ratelimit_service._gen.ratelimit.v1.key_pb2 import Key
from ratelimit_service._gen.ratelimit.v1.limit_pb2 import Override
from ratelimit_service._gen.ratelimit.v1.plan_pb2 import Plan
from ratelimit_service._gen.ratelimit.v1.rules_pb2 import DomainRules
from ratelimit_service.api.key_admin.limit_messages import override_from_proto, override_to_proto
from ratelimit_service.api.key_admin.plan_messages import draft_from_proto, draft_to_proto
from ratelimit_service.api.key_admin.rules_messages import rules_from_proto, rules_to_proto
from ratelimit_service.bounded_yaml import Node
from ratelimit_service.cli.configuration.item import Item, Kind, SetFor
from ratelimit_service.decision.api_key import new_key_id
from ratelimit_service.decision.descriptors.rules import check_new
from ratelimit_service.decision.limit import Level
from ratelimit_service.errors import FieldViolation, InvalidArgument
from ratelimit_service.management.plans import check_draft as check_plan
from ratelimit_service.management.plans import check_limit_name
from ratelimit_service.management.text import check_description
from ratelimit_service.message_nodes import fill

_TARGETS = ("key_id", "subject")
_OF_THE_SERVER = {
    Kind.PLAN: ("version", "create_time", "update_time", "etag"),
    Kind.RULES: ("version", "create_time", "update_time", "etag"),
    Kind.KEY: ("create_time", "update_time", "etag", "previous_secret_expire_time", "last_used_time", "overrides"),
}
"""Fields that the server sets, or that are configured by documents of their own."""


def item_of(kind: Kind, root: Node, place: str) -> Item:
    """The item that a document without its `kind` describes.

    Raises YamlError with the line of a field that there is not, or that has another type, and InvalidArgument with the
    path of a value that the server would refuse.
    """
    match kind:
        case Kind.PLAN:
            return Item(kind, _plan(root), place=place)
        case Kind.RULES:
            return Item(kind, _rules(root), place=place)
        case Kind.KEY:
            return Item(kind, _key(root), place=place)
        case Kind.OVERRIDE:
            return Item(kind, _override(root), place=place)


def without_server_fields(kind: Kind, message: Message) -> Message:
    """MESSAGE, as the server returned it, without what the server sets."""
    for name in _OF_THE_SERVER[kind]:
        message.ClearField(name)
    if isinstance(message, Key) and message.state == Key.EXPIRED:
        message.state = Key.ACTIVE
    return message


def _plan(root: Node) -> Plan:
    plan = Plan()
    fill(plan, root)
    draft = draft_from_proto(plan)
    check_plan(draft)
    return draft_to_proto(draft)


def _rules(root: Node) -> DomainRules:
    message = DomainRules()
    fill(message, root)
    rules = rules_from_proto(message)
    check_new(rules)
    check_description(message.description)
    canonical = rules_to_proto(rules)
    canonical.description = message.description
    return canonical


def _key(root: Node) -> Key:
    from ratelimit_service.management.key import KeyDraft, check_draft  # noqa: PLC0415  few files have keys

    key = Key()
    fill(key, root)
    if not key.key_id:
        raise InvalidArgument.of(
            "key_id", f"is missing, by which files and keys are matched; choose one, such as {new_key_id()}"
        )
    if key.overrides:
        raise InvalidArgument.of("overrides", "are documents of their own, of kind Override; move them there")
    if key.state not in {Key.STATE_UNSPECIFIED, Key.ACTIVE, Key.SUSPENDED, Key.EXPIRED}:
        raise InvalidArgument.of(
            "state", "is REVOKED, which is not configured; leave the key out, and `apply --prune` revokes it"
        )
    draft = KeyDraft(
        plan=key.plan,
        subject=key.subject,
        description=key.description,
        expires_us=None,
        labels=dict(key.labels),
        key_id=key.key_id,
    )
    check_draft(draft, 0)
    if key.state == Key.EXPIRED:  # follows from the time; nobody chose that the key is active
        key.ClearField("state")
    if key.HasField("expire_time"):
        key.expire_time.FromMicroseconds(key.expire_time.ToMicroseconds())
    without_server_fields(Kind.KEY, key)
    return key


def _override(root: Node) -> SetFor:
    from ratelimit_service.management.overrides import OverrideTarget  # noqa: PLC0415  as above

    target_pairs = [pair for pair in root.pairs if pair[0].text in _TARGETS]
    rest = [pair for pair in root.pairs if pair[0].text not in _TARGETS]
    set_for, override = SetFor(), Override()
    fill(set_for, Node("mapping", root.line, pairs=target_pairs))
    fill(override, Node("mapping", root.line, pairs=rest), others=_TARGETS)
    kind = set_for.WhichOneof("target")
    if kind is None or len(target_pairs) != 1:
        raise InvalidArgument.of("key_id", "or subject: set one of them, the key or the subject of the override")
    OverrideTarget(Level.KEY if kind == "key_id" else Level.SUBJECT, getattr(set_for, kind))
    try:
        checked = override_from_proto(override, "")
        check_limit_name("limit.name", checked.limit)
    except InvalidArgument as error:
        raise InvalidArgument(
            *(FieldViolation(each.field.removeprefix("."), each.description) for each in error.violations)
        ) from None
    set_for.override.CopyFrom(override_to_proto(checked))
    return set_for
