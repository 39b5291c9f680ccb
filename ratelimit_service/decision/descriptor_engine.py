"""Decisions on descriptors: every limit that is for a request is charged in one go, or none is."""

from collections.abc import Sequence
from typing import NamedTuple

from ratelimit_service.decision.charge import NEVER, Bucket, Charge, Weighed
from ratelimit_service.decision.decision import Reason, Source
from ratelimit_service.decision.descriptor import MAX_HITS, Descriptor, check_descriptors, key_and_resource
from ratelimit_service.decision.descriptor_verdict import (
    Counted,
    DescriptorStatus,
    DescriptorVerdict,
    judge_descriptor,
    passed,
    refused,
    uncounted,
)
from ratelimit_service.decision.domain_rules import DomainRules, RuleFailure
from ratelimit_service.decision.identify import Identifier
from ratelimit_service.decision.limit import clip_resource
from ratelimit_service.decision.policy import Policy
from ratelimit_service.decision.ports import BucketStore, StoreUnavailable
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.decision.rule_tree import Applied, RuleTree
from ratelimit_service.decision.rules_cache import RulesCache
from ratelimit_service.decision.verdict import wait_for
from ratelimit_service.errors import InvalidArgument, Unavailable

_OF_PLANS = {
    OnStoreFailure.LOCAL: RuleFailure.LOCAL,
    OnStoreFailure.ALLOW: RuleFailure.ALLOW,
    OnStoreFailure.DENY: RuleFailure.DENY,
}


class _Weighing(NamedTuple):
    """A descriptor on its way to the buckets: the limits that count, and what to do while they cannot be asked."""

    limits: tuple[Applied, ...]
    hits: int
    on_store_failure: RuleFailure
    policy: Policy | None = None

    @property
    def enforced(self) -> bool:
        """Whether it could be denied."""
        return self.hits > 0 and any(limit.enforced for limit in self.limits)


_Item = _Weighing | DescriptorStatus


class DescriptorEngine:
    """Decides requests that are described by descriptors, as Envoy's rate limit protocol has them.

    A descriptor with an `api_key` entry is decided by the plan of that key, every other by the rules of its domain. All
    its errors are ServiceErrors; nothing has been charged when one is raised. `buckets` are shared by all servers and
    may be asked for buckets of several partitions in one charge; `local` are this server's own.
    """

    def __init__(self, rules: RulesCache, identifier: Identifier, buckets: BucketStore, local: BucketStore) -> None:
        self._rules = rules
        self._identifier = identifier
        self._buckets = buckets
        self._local = local
        self.tally = [[0] * (max(Source) + 1) for _ in range(max(Reason) + 1)]
        """Statuses so far, by reason and then by source."""

    async def decide(self, domain: str, descriptors: Sequence[Descriptor]) -> DescriptorVerdict:
        """Decide a request of 1 to 32 descriptors, and charge the hits of all of them, or none.

        Raises InvalidArgument with the path of the field at fault, and Unavailable when a store cannot be asked and
        the rules do not say what then.
        """
        check_descriptors(domain, descriptors)
        items = await self._prepare(domain, descriptors)
        buckets, costs, places = _gather(items)
        denied = any(isinstance(item, DescriptorStatus) and not item.allowed for item in items)
        if not buckets:
            statuses = tuple(item for item in items if isinstance(item, DescriptorStatus))
        else:
            charge = Charge(buckets, (0,) * len(buckets) if denied else costs)
            try:
                weighed = (await self._buckets.charge((charge,)))[0].weighed
            except StoreUnavailable as fault:
                statuses = await self._decide_alone(items, charge, fault)
            else:
                statuses = tuple(_judge(item, places, weighed, Source.STORE, looked=denied) for item in items)
        allowed = True
        for status in statuses:
            self.tally[status.reason][status.source] += 1
            allowed = allowed and status.allowed
        return DescriptorVerdict(allowed, statuses)

    async def _prepare(self, domain: str, descriptors: Sequence[Descriptor]) -> list[_Item]:
        items: list[_Item] = []
        tree: RuleTree | None = None
        for index, descriptor in enumerate(descriptors):
            if descriptor.names_key:
                items.append(await self._by_plan(index, descriptor))
            else:
                tree = tree or self._tree(domain)
                items.append(_by_rules(tree, descriptor))
        replaced = {
            name
            for item in items
            for limit in (item.limits if isinstance(item, _Weighing) else (item.limit,))
            if limit is not None
            for name in limit.replaces
        }
        return [_without(item, replaced) for item in items] if replaced else items

    def _tree(self, domain: str) -> RuleTree:
        try:
            return self._rules.get(domain) or RuleTree(DomainRules(domain))
        except StoreUnavailable as fault:
            raise Unavailable(str(fault), reason="POLICY_STORE_UNAVAILABLE") from fault

    async def _by_plan(self, index: int, descriptor: Descriptor) -> _Item:
        api_key, resource = key_and_resource(index, descriptor)
        policy = self._identifier.recall(api_key)
        if policy is None:
            try:
                policy = await self._identifier.identify(api_key)
            except InvalidArgument:
                # A malformed key is a client's doing. An error would make a proxy that fails open let it pass.
                policy = None
        if policy is None:
            return refused(Reason.KEY_UNKNOWN, Source.POLICY)
        if policy.refusal is not None:
            return refused(policy.refusal, Source.POLICY, policy)
        rules = policy.select(clip_resource(resource)).rules
        if not rules:
            return passed(Source.POLICY, policy)
        limits = tuple(Applied(rule.limit.name, rule.limit.algorithm, rule.enforced, rule.bucket) for rule in rules)
        return _Weighing(limits, descriptor.hits, _OF_PLANS[policy.on_store_failure], policy)

    async def _decide_alone(
        self, items: Sequence[_Item], charge: Charge, fault: StoreUnavailable
    ) -> tuple[DescriptorStatus, ...]:
        """Decide while the shared buckets cannot be asked, as the plans and rules say."""
        weighings = [item for item in items if isinstance(item, _Weighing)]
        if any(item.on_store_failure is RuleFailure.FAIL for item in weighings):
            raise Unavailable(str(fault), reason="BUCKET_STORE_UNAVAILABLE") from fault
        alone = [_alone(item) for item in items]
        buckets, costs, places = _gather(alone)
        looking = not any(charge.costs) or any(
            isinstance(item, DescriptorStatus) and not item.allowed for item in alone
        )
        weighed: tuple[Weighed, ...] = ()
        if buckets:
            local = Charge(buckets, (0,) * len(buckets) if looking else costs)
            weighed = (await self._local.charge((local,)))[0].weighed
        return tuple(_judge(item, places, weighed, Source.DEGRADED, looked=looking) for item in alone)


def _by_rules(tree: RuleTree, descriptor: Descriptor) -> _Item:
    entries, hits, override = descriptor
    limits, on_store_failure = tree.match(entries) if override is None else tree.override(entries, override)
    if not limits:
        return passed(Source.POLICY)
    if limits[0].bucket is None:  # unlimited and blocked stand alone
        return uncounted(limits[0], hits)
    return _Weighing(limits, hits, on_store_failure)


def _without(item: _Item, replaced: set[str]) -> _Item:
    """A descriptor without its limits that another one of the request replaces. A plan's limits are no rules."""
    if item.policy is not None:
        return item
    if isinstance(item, DescriptorStatus):
        return passed(Source.POLICY) if item.limit is not None and item.limit.name in replaced else item
    limits = tuple(limit for limit in item.limits if limit.name not in replaced)
    return item._replace(limits=limits) if limits else passed(Source.POLICY)


def _gather(items: Sequence[_Item]) -> tuple[tuple[Bucket, ...], tuple[int, ...], dict[str, int]]:
    """The buckets of all descriptors, each once, what each is to be charged, and where each is by its name."""
    buckets: list[Bucket] = []
    costs: list[int] = []
    places: dict[str, int] = {}
    for item in items:
        if isinstance(item, _Weighing):
            for limit in item.limits:
                bucket = limit.bucket
                if bucket is None:
                    continue
                place = places.setdefault(bucket.name, len(buckets))
                if place == len(buckets):
                    buckets.append(bucket)
                    costs.append(item.hits)
                else:  # two descriptors with one bucket: a store would weigh each by itself
                    costs[place] = _summed(costs[place], item.hits)
    return tuple(buckets), tuple(costs), places


def _summed(hits: int, more: int) -> int:
    total = hits + more
    if abs(total) > MAX_HITS:
        raise InvalidArgument.of(
            "descriptors", f"ask for {total} hits of one limit together; at most {MAX_HITS} are allowed in a request"
        )
    return total


def _judge(
    item: _Item, places: dict[str, int], weighed: Sequence[Weighed], source: Source, *, looked: bool
) -> DescriptorStatus:
    if isinstance(item, DescriptorStatus):
        return item
    counted = []
    for limit in item.limits:
        if limit.bucket is None:
            continue
        said = weighed[places[limit.bucket.name]]
        if looked:
            said = said._replace(wait_us=wait_for(limit.bucket.limit, said, item.hits))
        counted.append(Counted(limit, said))
    status = judge_descriptor(tuple(counted), source, item.policy)
    if source is Source.DEGRADED and status.wait_us == NEVER and _fits_once_back(item):
        # More than this server's share, but not more than the limit: it would fit once the store is back.
        return status._replace(reason=Reason.DEGRADED_DENIED)
    return status


def _fits_once_back(item: _Weighing) -> bool:
    return all(
        item.hits <= limit.bucket.limit.capacity for limit in item.limits if limit.enforced and limit.bucket is not None
    )


def _alone(item: _Item) -> _Item:
    """A descriptor as its rules have it while the store is away: decided, or still to be weighed here."""
    if isinstance(item, DescriptorStatus) or item.on_store_failure is RuleFailure.LOCAL:
        return item
    if item.on_store_failure is RuleFailure.DENY and item.enforced:
        return refused(Reason.DEGRADED_DENIED, Source.DEGRADED, item.policy)
    return DescriptorStatus(allowed=True, reason=Reason.DEGRADED_ALLOWED, source=Source.DEGRADED, policy=item.policy)
