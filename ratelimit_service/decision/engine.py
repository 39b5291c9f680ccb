"""The decision itself: key, policy, buckets, verdict."""

from asyncio import gather
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

from ratelimit_service.decision.charge import Charge
from ratelimit_service.decision.identify import Identifier
from ratelimit_service.decision.limit import check_resource
from ratelimit_service.decision.outcome import Decision, decide, decide_by_share, preview
from ratelimit_service.decision.policy import Considered, Policy, Selection
from ratelimit_service.decision.ports import BucketStore, Clock, StoreUnavailable
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.decision.request_cache import RequestCache
from ratelimit_service.errors import InvalidArgument, ServiceError, Unavailable

MAX_COST = 1_000_000
MAX_REQUEST_ID_BYTES = 128

_UNKNOWN = Decision(allowed=False, reason=Reason.KEY_UNKNOWN, source=Source.POLICY)


class Check(NamedTuple):
    """One call to decide.

    Exactly one of `api_key` (what the caller presented) and `key_id` (for callers who verified the secret themselves)
    is set. `resource`: at most 256 bytes without control characters. `cost`: 0 to 1,000,000 tokens, 0 only looks.
    `request_id`: at most 128 bytes; empty for a call that is not to be recognised when it is repeated. `digest` is that
    of the bytes that said all this; empty when the next call in the same words is not to be recalled by it.
    """

    api_key: str = ""
    key_id: str = ""
    resource: str = ""
    cost: int = 1
    request_id: str = ""
    digest: bytes = b""


class Explanation(NamedTuple):
    """What a check would give now. `policy` is None when the key is unknown."""

    decision: Decision
    policy: Policy | None
    selection: Selection

    @property
    def considered(self) -> tuple[Considered, ...]:
        """Every limit that was set for the key."""
        return self.policy.considered if self.policy else ()


class PreparedCheck(NamedTuple):
    """A check whose policy is known and good, ready for the buckets."""

    policy: Policy
    selection: Selection
    charge: Charge
    cost: int


_Prepared = PreparedCheck | Decision | ServiceError


class DecisionEngine:
    """Decides calls. All its errors are ServiceErrors; nothing has been charged when one is raised.

    `buckets` are shared by all servers; `local` are this server's own, used while the shared ones cannot be asked and
    the plan says so. Between the latest `recalled` checks and twice as many are remembered, each with its policy and in
    some 900 bytes more.
    """

    def __init__(
        self,
        identifier: Identifier,
        buckets: BucketStore,
        local: BucketStore,
        clock: Clock,
        *,
        recalled: int = 100_000,
    ) -> None:
        self._identifier = identifier
        self._buckets = buckets
        self._local = local
        self._request_cache: RequestCache[PreparedCheck] = RequestCache(clock, recalled)
        self.tally = [[0] * (max(Source) + 1) for _ in range(max(Reason) + 1)]
        """Decisions so far, by reason and then by source."""

    def recall(self, digest: bytes) -> PreparedCheck | None:
        """What the check in the words with this digest was prepared to, if it was, and that still holds.

        It stands for the check in `check` and `check_all` in the same turn of the event loop.
        """
        return self._request_cache.recall(digest)

    async def check(self, check: Check | PreparedCheck) -> Decision:
        """Decide one call, and charge its cost to every limit that applies, or to none."""
        prepared = check if isinstance(check, PreparedCheck) else await self._identify_and_prepare(check)
        if isinstance(prepared, Decision):
            decision = prepared
        else:
            try:
                outcomes = await self._buckets.charge((prepared.charge,))
            except StoreUnavailable:
                decision = await self._decide_without_store(prepared)
            else:
                decision = decide(prepared.policy, prepared.selection.rules, outcomes[0], Source.STORE)
        self.tally[decision.reason][decision.source] += 1
        return decision

    async def check_all(self, checks: Sequence[Check | PreparedCheck]) -> list[Decision | ServiceError]:
        """Decide independent calls, in this order, with one trip to the buckets. A bad one answers for itself only."""
        prepared = await self._prepare_all(checks)
        decided = await self._decide_all([item for item in prepared if isinstance(item, PreparedCheck)])
        results: list[Decision | ServiceError] = [*decided]
        if len(decided) < len(prepared):
            in_order = iter(decided)
            results = [next(in_order) if isinstance(item, PreparedCheck) else item for item in prepared]
        tally = self.tally
        for result in results:
            if isinstance(result, Decision):
                tally[result.reason][result.source] += 1
        return results

    async def explain(self, check: Check) -> Explanation:
        """Say what `check` would decide now, without charging. Raises Unavailable when a store cannot be asked."""
        policy = self._identifier.recall(check.api_key) or await self._identify(check)
        prepared = self._prepare(check._replace(request_id=""), policy)
        if isinstance(prepared, Decision):
            return Explanation(prepared, policy, Selection((), ()))
        peek = prepared.charge._replace(costs=(0,) * len(prepared.charge.costs))
        try:
            outcome = (await self._buckets.charge((peek,)))[0]
        except StoreUnavailable as fault:
            raise Unavailable(str(fault), reason="BUCKET_STORE_UNAVAILABLE") from fault
        rules = prepared.selection.rules
        decision = decide(prepared.policy, rules, preview(rules, outcome.results, check.cost), Source.STORE)
        return Explanation(decision, policy, prepared.selection)

    async def _identify_and_prepare(self, check: Check) -> PreparedCheck | Decision:
        policy = self._identifier.recall(check.api_key)
        if policy is None:
            policy = await self._identify(check)
        return self._prepare(check, policy)

    async def _identify(self, check: Check) -> Policy | None:
        if check.key_id:
            return await self._identifier.find(check.key_id)
        return await self._identifier.identify(check.api_key)

    def _prepare(self, check: Check, policy: Policy | None) -> PreparedCheck | Decision:
        cost = check.cost
        if not 0 <= cost <= MAX_COST:
            raise InvalidArgument.of("cost", f"is {cost}; it must be between 0 and {MAX_COST}")
        if check.request_id:
            _check_request_id(check.request_id)
        if policy is None:
            check_resource("resource", check.resource)
            return _UNKNOWN
        selection = policy.select(check.resource)
        if policy.refusal is not None:
            return Decision(allowed=False, reason=policy.refusal, source=Source.POLICY, policy=policy)
        if not selection.buckets:
            return Decision(allowed=True, reason=Reason.WITHIN_LIMIT, source=Source.POLICY, policy=policy)
        request = _request_name(policy.key_id, check) if check.request_id else ""
        charge = Charge(selection.buckets, (cost,) * len(selection.buckets), request)
        prepared = PreparedCheck(policy, selection, charge, cost)
        if check.digest and check.api_key and not request:
            self._request_cache.remember(check.digest, (policy.validity,), prepared)
        return prepared

    async def _prepare_all(self, checks: Sequence[Check | PreparedCheck]) -> list[_Prepared]:
        new = [check for check in checks if isinstance(check, Check)]
        if not new:
            return [check for check in checks if isinstance(check, PreparedCheck)]
        prepared = map(self._try_prepare, new, await self._identify_all(new))
        return [next(prepared) if isinstance(check, Check) else check for check in checks]

    async def _identify_all(self, checks: Sequence[Check]) -> list[Policy | ServiceError | None]:
        policies: list[Policy | ServiceError | None] = [self._identifier.recall(check.api_key) for check in checks]
        if None in policies:  # the new ones all at once, so that they are read from Postgres together
            new = [place for place, policy in enumerate(policies) if policy is None]
            found = await gather(*(self._try_identify(checks[place]) for place in new))
            for place, policy in zip(new, found, strict=True):
                policies[place] = policy
        return policies

    async def _try_identify(self, check: Check) -> Policy | ServiceError | None:
        try:
            return await self._identify(check)
        except ServiceError as fault:
            return fault

    def _try_prepare(self, check: Check, policy: Policy | ServiceError | None) -> _Prepared:
        if isinstance(policy, ServiceError):
            return policy
        try:
            return self._prepare(check, policy)
        except ServiceError as fault:
            return fault

    async def _decide_all(self, checks: Sequence[PreparedCheck]) -> list[Decision]:
        if not checks:
            return []
        try:
            outcomes = await self._buckets.charge([check.charge for check in checks])
        except StoreUnavailable:
            return [await self._decide_without_store(check) for check in checks]
        return [
            decide(check.policy, check.selection.rules, outcome, Source.STORE)
            for check, outcome in zip(checks, outcomes, strict=True)
        ]

    async def _decide_without_store(self, check: PreparedCheck) -> Decision:
        """Decide while the shared buckets cannot be asked, as the plan says."""
        policy, selection, charge, cost = check
        if policy.on_store_failure is OnStoreFailure.ALLOW:
            return Decision(allowed=True, reason=Reason.DEGRADED_ALLOWED, source=Source.DEGRADED, policy=policy)
        if policy.on_store_failure is OnStoreFailure.DENY:
            return Decision(allowed=False, reason=Reason.DEGRADED_DENIED, source=Source.DEGRADED, policy=policy)
        return decide_by_share(policy, selection.rules, (await self._local.charge((charge,)))[0], cost)


def _check_request_id(request_id: str) -> None:
    size = len(request_id.encode())
    if size > MAX_REQUEST_ID_BYTES:
        raise InvalidArgument.of("request_id", f"has {size} bytes; at most {MAX_REQUEST_ID_BYTES} are allowed")


def _request_name(key_id: str, check: Check) -> str:
    """The name under which the outcome is kept: the same call with the same id, and no other, has the same name."""
    call = f"{key_id}\0{check.cost}\0{check.resource}\0{check.request_id}"
    return blake2b(call.encode(), digest_size=12).hexdigest()
