"""Descriptor rules as messages of `ratelimit.v1`. The only place that knows both."""

from collections.abc import Iterable

from ratelimit_service._gen.ratelimit.v1 import rules_pb2
from ratelimit_service.decision.domain_rules import (
    MAX_DEPTH,
    Blocked,
    DomainRules,
    RuleFailure,
    RuleLimit,
    RuleNode,
    Unlimited,
)
from ratelimit_service.decision.limit import Quota, TokenBucket
from ratelimit_service.doors.admin.fields import MOST_VIOLATIONS, under
from ratelimit_service.doors.admin.limit_messages import (
    from_mode,
    from_quota,
    from_token_bucket,
    to_mode,
    to_quota,
    to_token_bucket,
)
from ratelimit_service.doors.admin.times import from_time_us
from ratelimit_service.errors import FieldViolation, InvalidArgument
from ratelimit_service.keys.rule_set import RuleSet

_FAILURE_NUMBERS = {
    RuleFailure.FAIL: rules_pb2.DomainRules.FAIL,
    RuleFailure.LOCAL: rules_pb2.DomainRules.LOCAL,
    RuleFailure.ALLOW: rules_pb2.DomainRules.ALLOW,
    RuleFailure.DENY: rules_pb2.DomainRules.DENY,
}
_FAILURES = {number: failure for failure, number in _FAILURE_NUMBERS.items()}


def to_domain_rules(message: rules_pb2.DomainRules) -> DomainRules:
    """Return the rules of a message. Raises InvalidArgument with the path of each field at fault."""
    violations: list[FieldViolation] = []
    nodes = _to_nodes(message.descriptors, MAX_DEPTH, violations)
    on_store_failure = _to_failure(message.on_store_failure, violations)
    if violations:
        raise InvalidArgument(*violations[:MOST_VIOLATIONS])
    return DomainRules(message.domain, nodes, on_store_failure or RuleFailure.FAIL)


def from_domain_rules(rules: DomainRules) -> rules_pb2.DomainRules:
    """Return the message of rules that have no version yet."""
    return rules_pb2.DomainRules(
        domain=rules.domain,
        descriptors=[_from_node(node) for node in rules.descriptors],
        on_store_failure=_FAILURE_NUMBERS[rules.on_store_failure],
    )


def from_rule_set(rules: RuleSet) -> rules_pb2.DomainRules:
    """Return the message of a version of a domain's rules."""
    message = rules_pb2.DomainRules(
        version=rules.version,
        description=rules.description,
        create_time=from_time_us(rules.created_us),
        update_time=from_time_us(rules.updated_us),
        etag=rules.etag,
    )
    message.MergeFrom(from_domain_rules(rules.rules))
    return message


def _to_nodes(
    messages: Iterable[rules_pb2.DescriptorRule], levels: int, violations: list[FieldViolation]
) -> tuple[RuleNode, ...]:
    """The nodes of one level. What is at fault in them is put into VIOLATIONS, and such nodes are left out."""
    nodes: list[RuleNode] = []
    for position, message in enumerate(messages):
        faults: list[FieldViolation] = []
        if levels == 0:
            faults.append(FieldViolation("key", f"is more than {MAX_DEPTH} levels deep; leave this level out"))
        else:
            node = _to_node(message, levels, faults)
            nodes.extend((node,) if node else ())
        violations += [FieldViolation(f"descriptors[{position}].{fault.field}", fault.description) for fault in faults]
    return tuple(nodes)


def _to_node(message: rules_pb2.DescriptorRule, levels: int, violations: list[FieldViolation]) -> RuleNode | None:
    below = _to_nodes(message.descriptors, levels - 1, violations)
    on_store_failure = _to_failure(message.on_store_failure, violations)
    limits: list[RuleLimit] = []
    for position, limit in enumerate(message.limits):
        try:
            with under(f"limits[{position}]"):
                limits.append(_to_limit(limit))
        except InvalidArgument as fault:
            violations += fault.violations
    if violations:
        return None
    try:
        return RuleNode(message.key, message.value, tuple(limits), below, message.share_threshold, on_store_failure)
    except InvalidArgument as fault:
        violations += fault.violations
        return None


def _from_node(node: RuleNode) -> rules_pb2.DescriptorRule:
    return rules_pb2.DescriptorRule(
        key=node.key,
        value=node.value,
        limits=[_from_limit(limit) for limit in node.limits],
        share_threshold=node.share_threshold,
        on_store_failure=None if node.on_store_failure is None else _FAILURE_NUMBERS[node.on_store_failure],
        descriptors=[_from_node(child) for child in node.descriptors],
    )


def _to_limit(message: rules_pb2.DescriptorLimit) -> RuleLimit:
    return RuleLimit(_to_algorithm(message), message.name, to_mode(message.mode), tuple(message.replaces))


def _to_algorithm(message: rules_pb2.DescriptorLimit) -> TokenBucket | Quota | Unlimited | Blocked:
    match message.WhichOneof("algorithm"):
        case "token_bucket":
            return to_token_bucket(message.token_bucket)
        case "quota":
            return to_quota(message.quota)
        case "unlimited":
            return Unlimited()
        case "blocked":
            return Blocked()
    raise InvalidArgument.of("algorithm", "is missing; set token_bucket, quota, unlimited or blocked")


def _from_limit(limit: RuleLimit) -> rules_pb2.DescriptorLimit:
    message = rules_pb2.DescriptorLimit(name=limit.name, mode=from_mode(limit.mode), replaces=limit.replaces)
    match limit.algorithm:
        case TokenBucket() as bucket:
            message.token_bucket.CopyFrom(from_token_bucket(bucket))
        case Quota() as quota:
            message.quota.CopyFrom(from_quota(quota))
        case Unlimited():
            message.unlimited.SetInParent()
        case Blocked():
            message.blocked.SetInParent()
    return message


def _to_failure(
    number: "rules_pb2.DomainRules.OnStoreFailure.ValueType", violations: list[FieldViolation]
) -> RuleFailure | None:
    if number and number not in _FAILURES:
        violations.append(FieldViolation("on_store_failure", f"is {number}; use FAIL, LOCAL, ALLOW or DENY"))
    return _FAILURES.get(number)
