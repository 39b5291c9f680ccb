"""ManageRules, and descriptor rules as messages of `ratelimit.v1`."""

from collections.abc import Iterable

from ratelimit_service._gen.ratelimit.v1 import rules_pb2
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageRulesRequest, ManageRulesResponse
from ratelimit_service.api.authentication import require
from ratelimit_service.api.key_admin.fields import MAX_VIOLATIONS, from_time_us, no_action, require_message, under
from ratelimit_service.api.key_admin.limit_messages import (
    from_mode,
    from_quota,
    from_token_bucket,
    to_mode,
    to_quota,
    to_token_bucket,
)
from ratelimit_service.decision.descriptors.rules import (
    MAX_DEPTH,
    Blocked,
    DomainRules,
    RuleFailure,
    RuleLimit,
    RuleNode,
    Unlimited,
)
from ratelimit_service.decision.limit import Quota, TokenBucket
from ratelimit_service.errors import FieldViolation, InvalidArgument
from ratelimit_service.management.paging import Paging
from ratelimit_service.management.rules import RuleSet, RulesService
from ratelimit_service.management.tokens import Caller, Role

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
        raise InvalidArgument(*violations[:MAX_VIOLATIONS])
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


_READS = frozenset({"get", "list"})


class ManageRules:
    """Does one thing to the descriptor rules of a domain."""

    def __init__(self, rules: RulesService) -> None:
        self._rules = rules

    async def __call__(self, request: ManageRulesRequest, caller: Caller) -> ManageRulesResponse:
        """Do what the request's action says, if the caller's role allows it. Raises ServiceError."""
        action = request.WhichOneof("action")
        require(caller, Role.VIEWER if action in _READS else Role.ADMIN)
        if action is None:
            raise no_action("replace", "get", "list", "delete")
        with under(action):
            match action:
                case "replace":
                    return ManageRulesResponse(replace=_result(await self._replace(request.replace, caller)))
                case "get":
                    rules = await self._rules.get(request.get.domain, version=request.get.version)
                    return ManageRulesResponse(get=_result(rules))
                case "list":
                    return await self._list(request.list)
                case "delete":
                    deleted = await self._rules.delete(caller.name, request.delete.domain, etag=request.delete.etag)
                    return ManageRulesResponse(delete=_result(deleted))

    async def _replace(self, request: ManageRulesRequest.ReplaceRules, caller: Caller) -> RuleSet:
        require_message("rules", present=request.HasField("rules"))
        message = request.rules
        with under("rules"):
            rules = to_domain_rules(message)
            if request.validate_only:
                return await self._rules.check(rules, description=message.description, etag=message.etag)
            return await self._rules.replace(caller.name, rules, description=message.description, etag=message.etag)

    async def _list(self, request: ManageRulesRequest.ListRules) -> ManageRulesResponse:
        page = await self._rules.list(Paging(request.page_size, request.page_token))
        response = ManageRulesResponse.RulesPage(next_page_token=page.next_page_token)
        for rules in page.items:
            message = from_rule_set(rules)
            message.ClearField("descriptors")
            response.domains.append(message)
        return ManageRulesResponse(list=response)


def _result(rules: RuleSet) -> ManageRulesResponse.RulesResult:
    return ManageRulesResponse.RulesResult(rules=from_rule_set(rules))
