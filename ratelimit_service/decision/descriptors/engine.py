"""Decisions on descriptors: all limits that apply to a request are charged at once, or none is."""

from asyncio import gather
from collections.abc import Awaitable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from ratelimit_service.decision.charge import (
    MAX_BUCKETS,
    NEVER,
    Bucket,
    Charge,
    ChargeResult,
    Exhausted,
    LimitResult,
    costs_of,
)
from ratelimit_service.decision.denial_memory import DenialMemory
from ratelimit_service.decision.descriptors.outcome import (
    DescriptorStatus,
    RequestDecision,
    decide_descriptor,
    passed,
    refused,
    uncounted,
    undecided,
)
from ratelimit_service.decision.descriptors.request import (
    MAX_HITS,
    DescribedRequest,
    Descriptor,
    check_request,
    key_and_resource,
)
from ratelimit_service.decision.descriptors.rules import RuleOnStoreFailure
from ratelimit_service.decision.descriptors.rules_cache import RulesCache
from ratelimit_service.decision.descriptors.tree import UNREADABLE, AppliedLimit, LimitSet, RuleTree
from ratelimit_service.decision.descriptors.usage import Decided, Part, counted, counts_of
from ratelimit_service.decision.key_resolver import KeyName, KeyResolver
from ratelimit_service.decision.limit import Concurrency, clip_resource
from ratelimit_service.decision.lru import LruCache
from ratelimit_service.decision.outcome import refusal_of, wait_for
from ratelimit_service.decision.policy import Policy, Selection, Validity
from ratelimit_service.decision.ports import BucketStore, FallbackStore, QueueTimeout, StoreUnavailable
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.decision.tally import NO_PLAN, DecisionTally
from ratelimit_service.decision.usage import NO_SERIES, Series
from ratelimit_service.decision.usage_tally import UsageTally
from ratelimit_service.errors import InvalidArgument, LookupDeferred, ServiceError, Unavailable

_EXPIRED = Validity(0)
_NEW = LookupDeferred("not looked up yet")
_Found: TypeAlias = Policy | LookupDeferred | None
"""What was found for a key: None if it is unknown, an error if it was not looked up in time."""

_NO_BUCKETS = (ChargeResult(charged=True, limit_results=()),)
_MAX_SELECTIONS = 10_000  # selections of plans for which limit sets are cached
_RULE_FAILURES = {
    OnStoreFailure.LOCAL: RuleOnStoreFailure.LOCAL,
    OnStoreFailure.ALLOW: RuleOnStoreFailure.ALLOW,
    OnStoreFailure.DENY: RuleOnStoreFailure.DENY,
}


class _Pending(NamedTuple):
    """A descriptor that its buckets have to decide. `policy` is None where rules apply.

    `afterwards`: whether its hits are charged whatever the limits have.
    """

    limit_set: LimitSet
    hits: int
    series: Series
    policy: Policy | None = None
    afterwards: bool = False


class _Settled(NamedTuple):
    """A descriptor that needs no bucket, and what it counts for."""

    status: DescriptorStatus
    hits: int
    series: Series = NO_SERIES


class _MergedBuckets(NamedTuple):
    """The buckets of all pending descriptors, each once, their costs, and per descriptor the indexes of its own."""

    buckets: tuple[Bucket, ...]
    costs: tuple[int, ...]
    indexes: tuple[Sequence[int], ...]


_Item = _Pending | _Settled


class PreparedRequest(NamedTuple):
    """A request ready to be charged: each descriptor is pending, or has its status already.

    `single` is the item of a request with one descriptor, if that is pending, as in nearly every request. `denied`:
    whether a status is a denial, so that the others only peek. The request stays prepared as long as all `validities`
    are current. `after` are its descriptors that are charged afterwards, whatever becomes of the others; None if there
    are none. `uncharged` is why one that was to be charged afterwards will not be, since its key was not looked up in
    time, if no other descriptor admits the call. `asks`: whether the store has to decide it, whatever it has denied
    before.
    """

    items: Sequence[_Item]
    single: _Pending | None
    merged: _MergedBuckets
    denied: bool
    charge: Charge
    validities: tuple[Validity, ...] = ()
    after: "_After | None" = None
    uncharged: LookupDeferred | None = None
    asks: bool = True

    def if_allowed(self) -> "PreparedRequest":
        """The same with all descriptors charged only if they fit."""
        if self.after is None:
            return self
        return _prepared([_if_allowed(item) for item in self.after.all_items], self.validities)

    @property
    def key_id(self) -> str:
        """The key that the request is of, if it is one descriptor with an API key; else empty."""
        single = self.single
        if self.after is not None and len(self.after.all_items) == 1:
            single = self.after.request.single
        return single.policy.key_id if single is not None and single.policy is not None else ""


class _After(NamedTuple):
    """The descriptors of a request that are charged afterwards, as a request of their own, and all, in their order."""

    request: PreparedRequest
    all_items: Sequence[_Item]


class DescriptorEngine:
    """Decides requests that are described by descriptors, as Envoy's rate limit protocol has them.

    A descriptor with an `api_key` entry is decided by the plan of that key, every other by the rules of its domain. All
    its errors are ServiceErrors; nothing has been charged when one is raised. `buckets` are shared by all servers and
    must accept charges of several partitions; `local` is this server's share of them. `usage` gets what the shared ones
    do not count. `denials` are those that the shared ones need not be asked for again; None: all are.
    """

    def __init__(  # noqa: PLR0913, PLR0917  what it decides by
        self,
        rules: RulesCache,
        keys: KeyResolver,
        buckets: BucketStore,
        local: FallbackStore,
        usage: UsageTally,
        denials: DenialMemory | None = None,
    ) -> None:
        self._denials = DenialMemory() if denials is None else denials
        self._usage = usage
        self._rules = rules
        self._keys = keys
        self._buckets = buckets
        self._local = local
        self._plan_limit_sets: LruCache[tuple[Bucket, ...], LimitSet] = LruCache(_MAX_SELECTIONS)
        self.tally = DecisionTally()
        """Statuses so far."""

    async def prepare(self, request: DescribedRequest, deadline: float | None = None) -> PreparedRequest:
        """Find the limits of a request. The result is valid for `decide` in the same iteration of the event loop.

        The caller waits until DEADLINE, a monotonic time in seconds; None: for any time.
        Raises InvalidArgument with the path of the invalid field, and Unavailable when a policy cannot be read.
        """
        check_request(request)
        prepared = self._prepare(request, {})
        while prepared is None:  # keys are new: all of them at once, so that they are read from Postgres together
            prepared = self._prepare(request, await self._resolve_all(request, deadline))
        return prepared

    def _prepare(self, request: DescribedRequest, found: Mapping[str, _Found]) -> PreparedRequest | None:
        """Find the limits, of keys that were verified before or are in FOUND. None when another is needed."""
        items: list[_Item] = []
        validities: list[Validity] = []
        tree: RuleTree | None = None
        uncharged: LookupDeferred | None = None
        for index, descriptor in enumerate(request.descriptors):
            if descriptor.names_key:
                api_key, resource = key_and_resource(index, descriptor)
                policy = self._keys.verified(api_key) or found.get(api_key, _NEW)
                if isinstance(policy, Policy):
                    afterwards, validity = self._rules.charges_keys_afterwards(request.domain)
                    validities += (policy.validity, validity)
                    item = self._by_plan(policy, resource, descriptor.hits)
                    items.append(_charged_afterwards(item) if afterwards else item)
                elif policy is _NEW:
                    return None
                else:
                    validities.append(_EXPIRED)
                    if policy is not None and descriptor.hits > 0 and self._charges_keys_afterwards(request):
                        uncharged = policy
                    unknown = refused(Reason.KEY_UNKNOWN, Source.POLICY)
                    items.append(_Settled(unknown if policy is None else undecided(), descriptor.hits))
            else:
                tree = tree or self._tree(request.domain)
                validities.append(tree.validity)
                items.append(_by_rules(tree, descriptor))
        prepared = _split(_apply_replacements(items), tuple(validities))
        if uncharged is None or any(map(_admits, items)):
            return prepared
        return prepared._replace(uncharged=uncharged)

    def charges_afterwards(self, request: DescribedRequest) -> bool:
        """Whether a request has only charges that are made afterwards, as far as that is known without a lookup."""
        check_request(request)
        if all(descriptor.names_key and descriptor.hits > 0 for descriptor in request.descriptors):
            return self._charges_keys_afterwards(request)
        prepared = self._prepare(request, {})
        return prepared is not None and prepared.after is not None and not prepared.items

    def _charges_keys_afterwards(self, request: DescribedRequest) -> bool:
        return self._rules.charges_keys_afterwards(request.domain)[0]

    async def _resolve_all(self, request: DescribedRequest, deadline: float | None) -> Mapping[str, _Found]:
        """The policies of the keys in a request, of which one was not verified before."""
        found: dict[str, _Found] = {}
        for index, descriptor in enumerate(request.descriptors):
            if descriptor.names_key:
                api_key, _ = key_and_resource(index, descriptor)
                found[api_key] = self._keys.verified(api_key)
        names = [KeyName(api_key) for api_key, policy in found.items() if policy is None]
        for name, policy in zip(names, await self._keys.resolve_all(names, deadline), strict=True):
            if isinstance(policy, ServiceError) and not isinstance(policy, LookupDeferred):
                raise policy
            found[name.api_key] = policy
        return found

    def decide(self, prepared: PreparedRequest, deadline: float | None = None) -> Awaitable[RequestDecision]:
        """Charge the hits of all descriptors of a request, or none; none if DEADLINE passes before they can be sent.

        Raises Unavailable when the bucket store is unavailable and a descriptor's rules have RuleOnStoreFailure.FAIL.
        Those that are charged afterwards are, whatever becomes of the others: where these fail, they are denied, since
        a repeat of the request would charge again.
        """
        if prepared.after is None:
            return self._decide(prepared, deadline)
        if not prepared.items:  # as of a proxy whose response has ended
            return self._decide(prepared.after.request, deadline)
        return self._decide_both(prepared, prepared.after, deadline)

    async def _decide_both(self, prepared: PreparedRequest, later: _After, deadline: float | None) -> RequestDecision:
        """Decide a request of which some descriptors are charged at once, and others afterwards."""
        at_once, after = await gather(
            self._decide(prepared, deadline), self._decide(later.request, deadline), return_exceptions=True
        )
        if isinstance(after, BaseException):
            raise after
        if isinstance(at_once, ServiceError):
            at_once = RequestDecision(allowed=False, statuses=(undecided(),) * len(prepared.items))
            self.tally[NO_PLAN][Reason.DEGRADED_DENIED][Source.DEGRADED] += len(prepared.items)
        elif isinstance(at_once, BaseException):
            raise at_once
        first, second = iter(at_once.statuses), iter(after.statuses)
        statuses = [next(second if _is_afterwards(item) else first) for item in later.all_items]
        return RequestDecision(at_once.allowed and after.allowed, tuple(statuses))

    async def _decide(self, prepared: PreparedRequest, deadline: float | None) -> RequestDecision:
        remembered = None if prepared.asks else self._denials.find(prepared.charge)
        if remembered is None:
            statuses = await self._ask(prepared, deadline)
        else:
            self._usage.denied(prepared.charge, remembered)
            statuses = _decide_statuses(prepared, remembered.limit_results, Source.MEMORY)
        allowed = True
        for status in statuses:
            plan = NO_PLAN if status.policy is None else status.policy.plan
            self.tally[plan][status.reason][status.source] += 1
            if not status.allowed:
                allowed = False
                if status.limit is not None:
                    self.tally.deny(plan, status.limit.name)
        return RequestDecision(allowed, statuses)

    def holds_until(self, prepared: PreparedRequest) -> float:
        """Until when the same request will be denied from memory, if it is now: a monotonic time in seconds."""
        return self._denials.holds_until(prepared.charge)

    def count_again(self, prepared: PreparedRequest, status: DescriptorStatus, times: int) -> None:
        """Count TIMES more requests like this one of a single descriptor, to which its STATUS from memory was given."""
        self._usage.denied(prepared.charge, ChargeResult(charged=False, limit_results=status.results), times)
        plan = NO_PLAN if status.policy is None else status.policy.plan
        self.tally[plan][status.reason][status.source] += times
        if status.limit is not None:
            self.tally.deny(plan, status.limit.name, times)

    async def _ask(self, prepared: PreparedRequest, deadline: float | None) -> tuple[DescriptorStatus, ...]:
        """Have the store decide a request."""
        charge, sent = prepared.charge, self._denials.now()
        try:
            (result,) = await self._buckets.charge((charge,), deadline) if charge.buckets else _NO_BUCKETS
        except QueueTimeout as error:
            raise refusal_of(error) from error
        except StoreUnavailable as error:
            return self._decide_without_store(prepared, error)
        if isinstance(result, Exhausted):
            self._denials.remember(charge, result, sent)
        elif prepared.asks and min(charge.costs, default=0) < 0:  # at once for this worker's calls; others hear of it
            self._denials.forget([bucket.name for bucket in charge.buckets])
        statuses = _decide_statuses(prepared, result.limit_results, Source.STORE)
        if not charge.counted:
            self._count(prepared, statuses)
        return statuses

    def _tree(self, domain: str) -> RuleTree:
        try:
            tree = self._rules.get(domain)
        except StoreUnavailable as error:
            raise Unavailable(str(error), reason="POLICY_STORE_UNAVAILABLE") from error
        if tree is None:
            tree = self._rules.without_rules(domain)
        return tree

    def _by_plan(self, policy: Policy, resource: str, hits: int) -> _Item:
        selection = policy.select(clip_resource(resource))
        if policy.refusal is not None:
            return _Settled(refused(policy.refusal, policy.refusal_source, policy), hits, selection.series)
        if not selection.buckets:
            return _Settled(passed(policy), hits, selection.series)
        limit_set = self._plan_limit_sets.get(selection.buckets)
        if limit_set is None:
            limit_set = _plan_limit_set(selection, policy)
            self._plan_limit_sets.put(selection.buckets, limit_set)
        return _Pending(limit_set, hits, selection.series, policy)

    def _count(self, prepared: PreparedRequest, statuses: Sequence[DescriptorStatus]) -> None:
        """Count a request that no script has counted."""
        items, afterwards = prepared.items, prepared.charge.afterwards
        decided = [Decided(item.series, item.hits, status) for item, status in zip(items, statuses, strict=True)]
        for series, counts in counts_of(decided, afterwards=afterwards):
            self._usage.add(series, counts)

    def _decide_without_store(self, shared: PreparedRequest, error: StoreUnavailable) -> tuple[DescriptorStatus, ...]:
        """Decide while the shared buckets are unavailable, by `on_store_failure` of the plans and rules.

        What is charged afterwards is noted whatever that says: where the call would fail, it is denied, since who makes
        it ignores the response, and would repeat what failed.
        """
        items, afterwards = shared.items, shared.charge.afterwards
        for item in () if afterwards else items:
            if isinstance(item, _Pending) and item.limit_set.on_store_failure is RuleOnStoreFailure.FAIL:
                raise Unavailable(str(error), reason="BUCKET_STORE_UNAVAILABLE") from error
        prepared = _prepared([_degrade(item) for item in items], afterwards=afterwards)
        charge = prepared.charge
        charge_result = self._local.decide(charge, error) if charge.buckets else _NO_BUCKETS[0]
        statuses = _decide_statuses(prepared, charge_result.limit_results, Source.DEGRADED)
        if afterwards or all(status.allowed for status in statuses):
            for item in items:
                if isinstance(item, _Pending) and item.limit_set.on_store_failure is not RuleOnStoreFailure.LOCAL:
                    buckets = item.limit_set.buckets
                    costs = costs_of(buckets, item.hits)
                    self._local.spend(Charge(buckets, costs, afterwards=afterwards), error)
        if not (shared.charge.counted and error.sent):  # else the store counts it, or a late reply
            self._count(prepared, statuses)
        return statuses


def _is_denied(items: Sequence[_Item]) -> bool:
    return any(isinstance(item, _Settled) and not item.status.allowed for item in items)


def _by_rules(tree: RuleTree, descriptor: Descriptor) -> _Item:
    entries, hits, override, _ = descriptor
    limit_set = tree.match(entries) if override is None else tree.override(entries, override)
    if limit_set.buckets:
        return _Pending(limit_set, hits, limit_set.series, None, limit_set.afterwards and hits > 0)
    if not limit_set.limits:
        return _Settled(passed(), hits, limit_set.series)
    if limit_set is UNREADABLE:
        return _Settled(undecided(), hits)
    status = uncounted(limit_set.limits[0], hits)
    if limit_set.source is Source.UNENFORCED:  # blocked or unlimited: neither refuses
        status = status._replace(source=Source.UNENFORCED)
    return _Settled(status, hits, limit_set.series)


def _plan_limit_set(selection: Selection, policy: Policy) -> LimitSet:
    limits = (
        AppliedLimit(rule.limit.name, rule.limit.algorithm, rule.enforced, rule.bucket)
        for rule in selection.rules
        if not isinstance(rule.limit.algorithm, Concurrency)  # none is: these selections are without
    )
    return LimitSet(tuple(limits), _RULE_FAILURES[policy.on_store_failure], source=policy.source)


def _apply_replacements(items: list[_Item]) -> list[_Item]:
    """Remove the limits that other descriptors of the request replace. A plan's limits are never replaced."""
    replaced: set[str] = set()
    for item in items:
        if isinstance(item, _Pending):
            replaced |= item.limit_set.replaces
        elif item.status.limit is not None:
            replaced.update(item.status.limit.replaces)
    return [_remove_replaced(item, replaced) for item in items] if replaced else items


def _remove_replaced(item: _Item, replaced: set[str]) -> _Item:
    if isinstance(item, _Settled):
        status = item.status
        if status.policy is None and status.limit is not None and status.limit.name in replaced:
            return _Settled(passed(), item.hits, item.series.with_limits())
        return item
    if item.policy is not None:
        return item
    limit_set = item.limit_set.excluding(replaced)
    if not limit_set.limits:
        return _Settled(passed(), item.hits, limit_set.series)
    return item._replace(limit_set=limit_set, series=limit_set.series)


def _charged_afterwards(item: _Item) -> _Item:
    return item._replace(afterwards=True) if isinstance(item, _Pending) and item.hits > 0 else item


def _if_allowed(item: _Item) -> _Item:
    return item._replace(afterwards=False) if isinstance(item, _Pending) else item


def _is_afterwards(item: _Item) -> bool:
    return isinstance(item, _Pending) and item.afterwards


def _admits(item: _Item) -> bool:
    """Whether a descriptor decides if a call may go on, so that an error would let it pass a proxy that fails open."""
    return isinstance(item, _Pending) and not item.afterwards


def _split(items: Sequence[_Item], validities: tuple[Validity, ...]) -> PreparedRequest:
    """Prepare a request, and apart those of its descriptors that are charged afterwards."""
    after = [item for item in items if _is_afterwards(item)]
    if not after:
        return _prepared(items, validities)
    at_once = [item for item in items if not _is_afterwards(item)]
    return _prepared(at_once, validities)._replace(after=_After(_prepared(after, afterwards=True), items))


def _prepared(
    items: Sequence[_Item], validities: tuple[Validity, ...] = (), *, afterwards: bool = False
) -> PreparedRequest:
    merged = _merge_buckets(items)
    denied = _is_denied(items) and not afterwards
    costs = (0,) * len(merged.buckets) if denied else merged.costs
    # What is denied already only peeks, and without buckets there is no script: the engine counts both.
    counts = () if denied or not merged.buckets else counted(_parts(items, merged))
    single = items[0] if len(items) == 1 and isinstance(items[0], _Pending) else None
    charge = Charge(merged.buckets, costs, "", counts, afterwards)
    asks = afterwards or min(costs, default=0) <= 0
    return PreparedRequest(items, single, merged, denied, charge, validities, asks=asks)


def _parts(items: Sequence[_Item], merged: _MergedBuckets) -> list[Part]:
    indexes = iter(merged.indexes)
    return [Part(item.series, item.hits, next(indexes) if isinstance(item, _Pending) else ()) for item in items]


def _merge_buckets(items: Sequence[_Item]) -> _MergedBuckets:
    pending = [item for item in items if isinstance(item, _Pending)]
    if len(pending) == 1:
        limit_set, hits, *_ = pending[0]
        found = limit_set.buckets
        return _MergedBuckets(found, costs_of(found, hits), (range(len(found)),))
    buckets: list[Bucket] = []
    costs: list[int] = []
    by_name: dict[str, int] = {}
    indexes: list[Sequence[int]] = []
    for limit_set, hits, *_ in pending:
        own: list[int] = []
        for bucket in limit_set.buckets:
            index = by_name.setdefault(bucket.name, len(buckets))
            own.append(index)
            if index == len(buckets):
                buckets.append(bucket)
                costs.append(bucket.limit.tokens_of(hits))
            else:  # two descriptors with one bucket: a store would evaluate each cost by itself
                costs[index] += bucket.limit.tokens_of(hits)
        indexes.append(own)
    if len(buckets) > MAX_BUCKETS:
        raise InvalidArgument.of(
            "descriptors", f"have {len(buckets)} limits in total; at most {MAX_BUCKETS} can be charged at once"
        )
    return _MergedBuckets(tuple(buckets), tuple([_bounded(cost) for cost in costs]), tuple(indexes))


def _bounded(cost: int) -> int:
    """A sum of hits as a cost that stores compute with, and with the same result: MAX_HITS + 1 never fit either."""
    return max(min(cost, MAX_HITS + 1), -MAX_HITS)


def _decide_statuses(
    prepared: PreparedRequest, results: tuple[LimitResult, ...], source: Source
) -> tuple[DescriptorStatus, ...]:
    single = prepared.single
    if single is not None and source is not Source.DEGRADED:
        limit_set = single.limit_set
        based_on = limit_set.source if source is Source.STORE else source
        return (decide_descriptor(limit_set.limits, results, based_on, single.policy),)
    indexes = iter(prepared.merged.indexes)
    statuses = []
    for item in prepared.items:
        if isinstance(item, _Settled):
            statuses.append(item.status)
            continue
        own = next(indexes)
        if len(own) == 1:  # nearly all, where there are many
            own_results: tuple[LimitResult, ...] = (results[own[0]],)
        else:
            own_results = results if len(own) == len(results) else tuple([results[index] for index in own])
        if prepared.denied:
            own_results = tuple(
                peek._replace(wait_us=wait_for(bucket.limit, peek, bucket.limit.tokens_of(item.hits)))
                for bucket, peek in zip(item.limit_set.buckets, own_results, strict=True)
            )
        based_on = item.limit_set.source if source is Source.STORE else source
        status = decide_descriptor(item.limit_set.limits, own_results, based_on, item.policy)
        if source is Source.DEGRADED and status.wait_us == NEVER and _fits_once_back(item):
            # More than this server's share, but not more than the limit: it would fit once the store is back.
            status = status._replace(reason=Reason.DEGRADED_DENIED)
        statuses.append(status)
    return tuple(statuses)


def _fits_once_back(item: _Pending) -> bool:
    return all(
        bucket.limit.tokens_of(item.hits) <= bucket.limit.capacity
        for limit, bucket in zip(item.limit_set.limits, item.limit_set.buckets, strict=True)
        if limit.enforced
    )


def _degrade(item: _Item) -> _Item:
    """Apply `on_store_failure`: the descriptor is decided, or stays pending for this server's own buckets."""
    if isinstance(item, _Settled):
        return item
    limit_set, hits, series, policy, _ = item
    if limit_set.on_store_failure is RuleOnStoreFailure.LOCAL:
        return item
    denies = limit_set.on_store_failure in {RuleOnStoreFailure.DENY, RuleOnStoreFailure.FAIL}
    if denies and limit_set.enforced and hits > 0:
        status = refused(Reason.DEGRADED_DENIED, Source.DEGRADED, policy)
        return _Settled(status, hits, series.with_limits(Reason.DEGRADED_DENIED.name))
    status = DescriptorStatus(allowed=True, reason=Reason.DEGRADED_ALLOWED, source=Source.DEGRADED, policy=policy)
    return _Settled(status, hits, series)
