"""Descriptor rules as messages of `ratelimit.v1`."""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final, TypeVar

from google.protobuf.duration_pb2 import Duration

from ratelimit_service._gen.ratelimit.v1 import rules_pb2
from ratelimit_service.api.key_admin.fields import duration_from_proto, duration_to_proto, time_to_proto, under
from ratelimit_service.api.key_admin.limit_messages import (
    counts_from_proto,
    counts_to_proto,
    either,
    mode_from_proto,
    mode_to_proto,
    overdraft_from_proto,
    overdraft_to_proto,
    quota_from_proto,
    quota_to_proto,
    token_bucket_from_proto,
    token_bucket_to_proto,
)
from ratelimit_service.decision.descriptors.rules import (
    MAX_DEPTH,
    Blocked,
    DomainRules,
    RuleCharge,
    RuleLimit,
    RuleNode,
    RuleOnStoreFailure,
    Unlimited,
)
from ratelimit_service.decision.limit import Counting, Quota, TokenBucket
from ratelimit_service.errors import MAX_VIOLATIONS, FieldViolation, InvalidArgument
from ratelimit_service.management.rules import RuleSet

T = TypeVar("T", bound=Enum)

_FAILURE_NUMBERS = {
    RuleOnStoreFailure.FAIL: rules_pb2.DomainRules.FAIL,
    RuleOnStoreFailure.LOCAL: rules_pb2.DomainRules.LOCAL,
    RuleOnStoreFailure.ALLOW: rules_pb2.DomainRules.ALLOW,
    RuleOnStoreFailure.DENY: rules_pb2.DomainRules.DENY,
}
_FAILURES: Final[Mapping[int, RuleOnStoreFailure]] = {number: failure for failure, number in _FAILURE_NUMBERS.items()}
_CHARGE_NUMBERS = {
    RuleCharge.IF_ALLOWED: rules_pb2.DomainRules.IF_ALLOWED,
    RuleCharge.ALWAYS: rules_pb2.DomainRules.ALWAYS,
}
_CHARGES: Final[Mapping[int, RuleCharge]] = {number: charge for charge, number in _CHARGE_NUMBERS.items()}


def rules_from_proto(message: rules_pb2.DomainRules) -> DomainRules:
    """The rules of a message. Raises InvalidArgument with the path of each invalid field."""
    violations: list[FieldViolation] = []
    nodes = _nodes_from_proto(message.descriptors, MAX_DEPTH, violations)
    on_store_failure = _inherited("on_store_failure", message.on_store_failure, _FAILURES, violations)
    charge = _inherited("charge", message.charge, _CHARGES, violations)
    if violations:
        raise InvalidArgument(*violations)
    return DomainRules(
        message.domain,
        nodes,
        on_store_failure or RuleOnStoreFailure.FAIL,
        charge or RuleCharge.IF_ALLOWED,
        duration_from_proto(message.hold, "hold") if message.HasField("hold") else None,
    )


def rules_to_proto(rules: DomainRules) -> rules_pb2.DomainRules:
    """The message of rules that have no version yet."""
    return rules_pb2.DomainRules(
        domain=rules.domain,
        descriptors=[_node_to_proto(node) for node in rules.descriptors],
        on_store_failure=_FAILURE_NUMBERS[rules.on_store_failure],
        charge=_CHARGE_NUMBERS[rules.charge],
        hold=_hold_to_proto(rules),
    )


def rule_set_to_proto(rules: RuleSet) -> rules_pb2.DomainRules:
    """The message of a version of a domain's rules."""
    message = heading_to_proto(rules)
    message.MergeFrom(rules_to_proto(rules.rules))
    return message


def heading_to_proto(rules: RuleSet) -> rules_pb2.DomainRules:
    """The same without the descriptors."""
    return rules_pb2.DomainRules(
        domain=rules.domain,
        on_store_failure=_FAILURE_NUMBERS[rules.rules.on_store_failure],
        charge=_CHARGE_NUMBERS[rules.rules.charge],
        hold=_hold_to_proto(rules.rules),
        version=rules.version,
        description=rules.description,
        create_time=time_to_proto(rules.created_us),
        update_time=time_to_proto(rules.updated_us),
        etag=rules.etag,
    )


def _hold_to_proto(rules: DomainRules) -> Duration | None:
    return None if rules.hold_us is None else duration_to_proto(rules.hold_us)


def _nodes_from_proto(
    messages: Iterable[rules_pb2.DescriptorRule], levels: int, violations: list[FieldViolation]
) -> tuple[RuleNode, ...]:
    """The nodes of one level. Invalid ones are omitted, and what is wrong with them is added to VIOLATIONS.

    Nothing is read after MAX_VIOLATIONS: an error names no more.
    """
    nodes: list[RuleNode] = []
    for position, message in enumerate(messages):
        if len(violations) >= MAX_VIOLATIONS:
            break
        invalid: list[FieldViolation] = []
        if levels == 0:
            invalid.append(FieldViolation("key", f"is more than {MAX_DEPTH} levels deep; leave this level out"))
        else:
            node = _node_from_proto(message, levels, invalid)
            nodes.extend((node,) if node else ())
        violations += [FieldViolation(f"descriptors[{position}].{one.field}", one.description) for one in invalid]
    return tuple(nodes)


def _node_from_proto(
    message: rules_pb2.DescriptorRule, levels: int, violations: list[FieldViolation]
) -> RuleNode | None:
    below = _nodes_from_proto(message.descriptors, levels - 1, violations)
    on_store_failure = _inherited("on_store_failure", message.on_store_failure, _FAILURES, violations)
    charge = _inherited("charge", message.charge, _CHARGES, violations)
    limits: list[RuleLimit] = []
    for position, limit in enumerate(message.limits):
        try:
            with under(f"limits[{position}]"):
                limits.append(_limit_from_proto(limit))
        except InvalidArgument as error:
            violations += error.violations
    if violations:
        return None
    try:
        return RuleNode(
            message.key, message.value, tuple(limits), below, message.share_threshold, on_store_failure, charge
        )
    except InvalidArgument as error:
        violations += error.violations
        return None


def _node_to_proto(node: RuleNode) -> rules_pb2.DescriptorRule:
    return rules_pb2.DescriptorRule(
        key=node.key,
        value=node.value,
        limits=[_limit_to_proto(limit) for limit in node.limits],
        share_threshold=node.share_threshold,
        on_store_failure=None if node.on_store_failure is None else _FAILURE_NUMBERS[node.on_store_failure],
        charge=None if node.charge is None else _CHARGE_NUMBERS[node.charge],
        descriptors=[_node_to_proto(child) for child in node.descriptors],
    )


def _limit_from_proto(message: rules_pb2.DescriptorLimit) -> RuleLimit:
    algorithm = _algorithm_from_proto(message)
    return RuleLimit(
        algorithm,
        message.name,
        mode_from_proto(message.mode),
        tuple(message.replaces),
        counts_from_proto(message.counts),
        overdraft_from_proto(message, algorithm),
    )


def _algorithm_from_proto(message: rules_pb2.DescriptorLimit) -> TokenBucket | Quota | Unlimited | Blocked:
    match message.WhichOneof("algorithm"):
        case "token_bucket":
            return token_bucket_from_proto(message.token_bucket)
        case "quota":
            return quota_from_proto(message.quota)
        case "unlimited":
            return Unlimited()
        case "blocked":
            return Blocked()
    raise InvalidArgument.of("algorithm", "is missing; set token_bucket, quota, unlimited or blocked")


def _limit_to_proto(limit: RuleLimit) -> rules_pb2.DescriptorLimit:
    message = rules_pb2.DescriptorLimit(name=limit.name, mode=mode_to_proto(limit.mode), replaces=limit.replaces)
    if limit.counts is not Counting.COST:  # else the message of a limit that counts nothing would name it, too
        message.counts = counts_to_proto(limit.counts)
    if limit.overdraft is not None and isinstance(limit.algorithm, TokenBucket | Quota):
        message.overdraft.CopyFrom(overdraft_to_proto(limit.algorithm, limit.overdraft))
    match limit.algorithm:
        case TokenBucket() as bucket:
            message.token_bucket.CopyFrom(token_bucket_to_proto(bucket))
        case Quota() as quota:
            message.quota.CopyFrom(quota_to_proto(quota))
        case Unlimited():
            message.unlimited.SetInParent()
        case Blocked():
            message.blocked.SetInParent()
    return message


def _inherited(field: str, number: int, known: Mapping[int, T], violations: list[FieldViolation]) -> T | None:
    """What a number stands for; None for 0, which inherits it, and for one that is added to VIOLATIONS."""
    if number and number not in known:
        violations.append(FieldViolation(field, f"is {number}; use {either(known.values())}"))
    return known.get(number)
