"""Decisions on descriptors: every limit that is for a request is charged in one go, or none is."""

from collections.abc import Sequence
from typing import NamedTuple

from ratelimit_service.decision.charge import NEVER, Bucket, Charge, ChargeResult, LimitResult
from ratelimit_service.decision.descriptors.outcome import (
    DescriptorStatus,
    RequestDecision,
    decide_descriptor,
    passed,
    refused,
    uncounted,
)
from ratelimit_service.decision.descriptors.request import (
    MAX_HITS,
    DescribedRequest,
    Descriptor,
    check_request,
    key_and_resource,
)
from ratelimit_service.decision.descriptors.rules import DomainRules, RuleFailure
from ratelimit_service.decision.descriptors.rules_cache import RulesCache
from ratelimit_service.decision.descriptors.tree import Applied, Match, RuleTree
from ratelimit_service.decision.identify import Identifier
from ratelimit_service.decision.limit import clip_resource
from ratelimit_service.decision.lru import LruCache
from ratelimit_service.decision.outcome import wait_for
from ratelimit_service.decision.policy import Policy, Selection, Validity
from ratelimit_service.decision.ports import BucketStore, StoreUnavailable
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.errors import InvalidArgument, Unavailable

_ENDED = Validity(0)
_NOT_ASKED = (ChargeResult(charged=True, results=()),)
_MAX_PLANS = 10_000  # selections of plans whose limits are remembered
_OF_PLANS = {
    OnStoreFailure.LOCAL: RuleFailure.LOCAL,
    OnStoreFailure.ALLOW: RuleFailure.ALLOW,
    OnStoreFailure.DENY: RuleFailure.DENY,
}


class _Evaluation(NamedTuple):
    """A descriptor on its way to the buckets. `policy` is None where rules decide."""

    match: Match
    hits: int
    policy: Policy | None = None


class _UniqueBuckets(NamedTuple):
    """The buckets of all descriptors, each once, what each is to be charged, and for each descriptor where its are."""

    buckets: tuple[Bucket, ...]
    costs: tuple[int, ...]
    places: tuple[Sequence[int], ...]


_Item = _Evaluation | DescriptorStatus


class PreparedRequest(NamedTuple):
    """A request ready for the buckets: for each descriptor how to evaluate it, or its status if that is known already.

    `alone` is the item of a request whose only descriptor is evaluated, as in nearly every request. `denied`: whether
    a status is a denial, so that the others only peek. The request stays prepared as long as all `validities` hold.
    """

    items: Sequence[_Item]
    alone: _Evaluation | None
    unique: _UniqueBuckets
    denied: bool
    charge: Charge
    validities: tuple[Validity, ...] = ()


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
        self._of_plans: LruCache[tuple[Bucket, ...], Match] = LruCache(_MAX_PLANS)
        self.tally = [[0] * (max(Source) + 1) for _ in range(max(Reason) + 1)]
        """Statuses so far, by reason and then by source."""

    async def prepare(self, request: DescribedRequest) -> PreparedRequest:
        """Find the limits of a request. The result is valid for `decide` in the same turn of the event loop.

        Raises InvalidArgument with the path of the invalid field, and Unavailable when a policy cannot be read.
        """
        check_request(request)
        items: list[_Item] = []
        validities: list[Validity] = []
        tree: RuleTree | None = None
        for index, descriptor in enumerate(request.descriptors):
            if descriptor.names_key:
                api_key, resource = key_and_resource(index, descriptor)
                policy = self._identifier.verified(api_key) or await self._identifier.identify(api_key)
                validities.append(policy.validity if policy else _ENDED)
                items.append(self._by_plan(policy, resource, descriptor.hits))
            else:
                tree = tree or self._tree(request.domain)
                validities.append(tree.validity)
                items.append(_by_rules(tree, descriptor))
        return _prepared(_replace(items), tuple(validities))

    async def decide(self, prepared: PreparedRequest) -> RequestDecision:
        """Charge the hits of all descriptors of a request, or none.

        Raises Unavailable when the bucket store cannot be asked and the rules do not say what to do then.
        """
        charge = prepared.charge
        try:
            outcomes = await self._buckets.charge((charge,)) if charge.buckets else _NOT_ASKED
        except StoreUnavailable as error:
            statuses = await self._decide_without_store(prepared.items, error)
        else:
            statuses = _decide_statuses(prepared, outcomes[0].results, Source.STORE)
        allowed = True
        for status in statuses:
            self.tally[status.reason][status.source] += 1
            if not status.allowed:
                allowed = False
        return RequestDecision(allowed, statuses)

    def _tree(self, domain: str) -> RuleTree:
        try:
            tree = self._rules.get(domain)
        except StoreUnavailable as fault:
            raise Unavailable(str(fault), reason="POLICY_STORE_UNAVAILABLE") from fault
        if tree is None:
            tree = RuleTree(DomainRules(domain))
            tree.validity.end()  # nobody would say when the domain gets rules
        return tree

    def _by_plan(self, policy: Policy | None, resource: str, hits: int) -> _Item:
        if policy is None:
            return refused(Reason.KEY_UNKNOWN, Source.POLICY)
        if policy.refusal is not None:
            return refused(policy.refusal, Source.POLICY, policy)
        selection = policy.select(clip_resource(resource))
        if not selection.buckets:
            return passed(policy)
        match = self._of_plans.get(selection.buckets)
        if match is None:
            match = _of_plan(selection, policy.on_store_failure)
            self._of_plans.put(selection.buckets, match)
        return _Evaluation(match, hits, policy)

    async def _decide_without_store(
        self, items: Sequence[_Item], fault: StoreUnavailable
    ) -> tuple[DescriptorStatus, ...]:
        """Decide while the shared buckets cannot be asked, as the plans and rules say."""
        for item in items:
            if isinstance(item, _Evaluation) and item.match.on_store_failure is RuleFailure.FAIL:
                raise Unavailable(str(fault), reason="BUCKET_STORE_UNAVAILABLE") from fault
        prepared = _prepared([_alone(item) for item in items])
        outcomes = await self._local.charge((prepared.charge,)) if prepared.charge.buckets else _NOT_ASKED
        return _decide_statuses(prepared, outcomes[0].results, Source.DEGRADED)


def _is_denied(items: Sequence[_Item]) -> bool:
    return any(isinstance(item, DescriptorStatus) and not item.allowed for item in items)


def _by_rules(tree: RuleTree, descriptor: Descriptor) -> _Item:
    entries, hits, override = descriptor
    match = tree.match(entries) if override is None else tree.override(entries, override)
    if match.buckets:
        return _Evaluation(match, hits)
    return uncounted(match.limits[0], hits) if match.limits else passed()


def _of_plan(selection: Selection, on_store_failure: OnStoreFailure) -> Match:
    limits = (Applied(rule.limit.name, rule.limit.algorithm, rule.enforced, rule.bucket) for rule in selection.rules)
    return Match(tuple(limits), _OF_PLANS[on_store_failure])


def _replace(items: list[_Item]) -> list[_Item]:
    """The descriptors without the limits that others of the request replace. A plan's limits are no rules."""
    replaced: set[str] = set()
    for item in items:
        if isinstance(item, _Evaluation):
            replaced |= item.match.replaces
        elif item.limit is not None:
            replaced.update(item.limit.replaces)
    return [_without(item, replaced) for item in items] if replaced else items


def _without(item: _Item, replaced: set[str]) -> _Item:
    if item.policy is not None:
        return item
    if isinstance(item, DescriptorStatus):
        return passed() if item.limit is not None and item.limit.name in replaced else item
    match = item.match.without(replaced)
    return item._replace(match=match) if match.limits else passed()


def _prepared(items: Sequence[_Item], validities: tuple[Validity, ...] = ()) -> PreparedRequest:
    unique = _unique_buckets(items)
    denied = _is_denied(items)
    costs = (0,) * len(unique.buckets) if denied else unique.costs
    alone = items[0] if len(items) == 1 and isinstance(items[0], _Evaluation) else None
    return PreparedRequest(items, alone, unique, denied, Charge(unique.buckets, costs), validities)


def _unique_buckets(items: Sequence[_Item]) -> _UniqueBuckets:
    evaluations = [item for item in items if isinstance(item, _Evaluation)]
    if len(evaluations) == 1:
        match, hits, _ = evaluations[0]
        count = len(match.buckets)
        return _UniqueBuckets(match.buckets, (hits,) * count, (range(count),))
    buckets: list[Bucket] = []
    costs: list[int] = []
    by_name: dict[str, int] = {}
    places: list[Sequence[int]] = []
    for match, hits, _ in evaluations:
        here: list[int] = []
        for bucket in match.buckets:
            place = by_name.setdefault(bucket.name, len(buckets))
            here.append(place)
            if place == len(buckets):
                buckets.append(bucket)
                costs.append(hits)
            else:  # two descriptors with one bucket: a store would weigh each by itself
                costs[place] = _summed(costs[place], hits)
        places.append(here)
    return _UniqueBuckets(tuple(buckets), tuple(costs), tuple(places))


def _summed(hits: int, more: int) -> int:
    total = hits + more
    if abs(total) > MAX_HITS:
        raise InvalidArgument.of(
            "descriptors", f"ask for {total} hits of one limit together; at most {MAX_HITS} are allowed in a request"
        )
    return total


def _decide_statuses(
    prepared: PreparedRequest, results: tuple[LimitResult, ...], source: Source
) -> tuple[DescriptorStatus, ...]:
    alone = prepared.alone
    if alone is not None and source is Source.STORE:
        return (decide_descriptor(alone.match.limits, results, source, alone.policy),)
    places = iter(prepared.unique.places)
    statuses = []
    for item in prepared.items:
        if isinstance(item, DescriptorStatus):
            statuses.append(item)
            continue
        here = next(places)
        here_results = results if len(here) == len(results) else tuple([results[place] for place in here])
        if prepared.denied:
            here_results = tuple(
                one._replace(wait_us=wait_for(bucket.limit, one, item.hits))
                for bucket, one in zip(item.match.buckets, here_results, strict=True)
            )
        status = decide_descriptor(item.match.limits, here_results, source, item.policy)
        if source is Source.DEGRADED and status.wait_us == NEVER and _fits_once_back(item):
            # More than this server's share, but not more than the limit: it would fit once the store is back.
            status = status._replace(reason=Reason.DEGRADED_DENIED)
        statuses.append(status)
    return tuple(statuses)


def _fits_once_back(item: _Evaluation) -> bool:
    return all(
        item.hits <= bucket.limit.capacity
        for limit, bucket in zip(item.match.limits, item.match.buckets, strict=True)
        if limit.enforced
    )


def _alone(item: _Item) -> _Item:
    """A descriptor as its rules have it while the store is away: decided, or still to be weighed here."""
    if isinstance(item, DescriptorStatus):
        return item
    match, hits, policy = item
    if match.on_store_failure is RuleFailure.LOCAL:
        return item
    if match.on_store_failure is RuleFailure.DENY and match.enforced and hits > 0:
        return refused(Reason.DEGRADED_DENIED, Source.DEGRADED, policy)
    return DescriptorStatus(allowed=True, reason=Reason.DEGRADED_ALLOWED, source=Source.DEGRADED, policy=policy)
