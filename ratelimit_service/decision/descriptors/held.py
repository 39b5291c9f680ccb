"""Requests of domains whose calls are held: at a call's begin one reserves, and at its end another settles that.

So a proxy that knows what a call cost when its response has ended holds room for it from the begin on, and takes slots
of concurrency limits. A call is one descriptor with an API key: what it takes is in one partition, so that it can be
settled at once.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from ratelimit_service.decision.charge import NEVER, Bucket
from ratelimit_service.decision.descriptors.outcome import (
    RequestDecision,
    decide_descriptor,
    passed,
    refused,
    undecided,
)
from ratelimit_service.decision.descriptors.request import (
    RESERVATION_ID,
    DescribedRequest,
    Descriptor,
    check_request,
    key_and_resource,
)
from ratelimit_service.decision.descriptors.rules_cache import RulesCache
from ratelimit_service.decision.descriptors.tree import AppliedLimit
from ratelimit_service.decision.engine import Check, DecisionEngine, PreparedCheck
from ratelimit_service.decision.limit import Concurrency, clip_resource
from ratelimit_service.decision.lru import LruCache
from ratelimit_service.decision.outcome import Decision
from ratelimit_service.decision.policy import Validity
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.decision.settlement import Settlements
from ratelimit_service.errors import InvalidArgument, NotFound

ROUTE: Final = "descriptors.held"
"""The field of an error that a route has: which descriptors it sends beside a call that is held."""

_MAX_SELECTIONS: Final = 10_000  # selections of plans whose limits are kept


class HeldCall(NamedTuple):
    """The begin of a call that is to be reserved, as long as all `validities` are current.

    `limits` are those of the key's plan, in the order of the results of a decision.
    """

    check: PreparedCheck
    limits: tuple[AppliedLimit, ...]
    validities: tuple[Validity, ...]

    @property
    def key_id(self) -> str:
        """The key that the call is of."""
        return self.check.policy.key_id


class EndedCall(NamedTuple):
    """The end of a call that was reserved, and its actual cost; None for its estimate, where nobody knows."""

    reservation_id: str
    actual: int | None


class Reserved(NamedTuple):
    """The decision on a call, and the id that settles it, empty if there is nothing to settle."""

    decision: RequestDecision
    reservation_id: str


class HeldCalls:
    """Reserves and settles the calls of domains that hold them. All errors are ServiceErrors."""

    def __init__(self, rules: RulesCache, engine: DecisionEngine, settlements: Settlements) -> None:
        self._rules = rules
        self._engine = engine
        self._settlements = settlements
        self._limits: LruCache[tuple[Bucket, ...], tuple[AppliedLimit, ...]] = LruCache(_MAX_SELECTIONS)

    def has_one(self, request: DescribedRequest) -> bool:
        """Whether a request has a call that is held, or the end of one, or nobody knows whether it has."""
        domain = request.domain
        if self._rules.hold_of_keys(domain)[0] is None and not self._rules.is_unreadable(domain):
            return self.has_end(request)
        return any(descriptor.names_key or _is_end(descriptor) for descriptor in request.descriptors)

    def has_end(self, request: DescribedRequest) -> bool:
        """Whether a request has the end of a call that was held, in a domain that need not hold any by now."""
        ends = filter(_is_end, request.descriptors)
        return any(self._settlements.made(value) for end in ends for _, value in end.entries)

    async def prepare(
        self, request: DescribedRequest, deadline: float | None = None
    ) -> HeldCall | EndedCall | RequestDecision:
        """Read a request that has one, and find its limits, or decide it where no bucket is needed.

        What is returned is valid in the same iteration of the event loop. Raises InvalidArgument with the path of the
        invalid field, below ROUTE for what the author of a route has to correct, and Unavailable when a policy cannot
        be read.
        """
        check_request(request)
        if all(map(_is_end, request.descriptors)):
            return _ended(request.descriptors)
        if self._rules.is_unreadable(request.domain):
            return RequestDecision(allowed=False, statuses=(undecided(),) * len(request.descriptors))
        if len(request.descriptors) != 1:
            raise InvalidArgument.of(
                ROUTE,
                f"has {len(request.descriptors)} entries, in a domain whose calls are held; send one, and others in a "
                "domain of their own",
            )
        (descriptor,) = request.descriptors
        api_key, resource = key_and_resource(0, descriptor)
        hold_us, validity = self._rules.hold_of_keys(request.domain)
        check = Check(api_key, "", clip_resource(resource), descriptor.hits, hold_us=hold_us)
        prepared = await self._engine.prepare(check, deadline)
        if isinstance(prepared, Decision):
            return _decided(await self._engine.decide(prepared, deadline), ())
        return HeldCall(prepared, self._limits_of(prepared), (prepared.policy.validity, validity))

    def _limits_of(self, prepared: PreparedCheck) -> tuple[AppliedLimit, ...]:
        """The limits of a plan, each one object for all its calls: what is encoded of them is kept by that."""
        selection = prepared.selection
        limits = self._limits.get(selection.buckets)
        if limits is None:
            limits = tuple(
                AppliedLimit(rule.limit.name, rule.limit.algorithm, rule.enforced, rule.bucket)
                for rule in selection.rules
            )
            self._limits.put(selection.buckets, limits)
        return limits

    async def reserve(self, call: HeldCall, deadline: float | None = None) -> Reserved:
        """Decide a call. Raises Overloaded and DeadlineExceeded; nothing was charged then."""
        decision = await self._engine.decide(call.check, deadline)
        return Reserved(_decided(decision, call.limits), decision.reservation_id)

    def abandon(self, reservation_id: str) -> None:
        """End a reservation whose caller has left before it learned of it, in the background."""
        self._settlements.abandon(reservation_id)

    async def settle(self, call: EndedCall, deadline: float | None = None) -> RequestDecision:
        """Let a call's actual cost take the place of what was reserved, if its reservation is still open.

        Allowed unless a limit has nothing left then. Raises Unavailable, Overloaded and DeadlineExceeded; then it can
        be repeated, and is made once.
        """
        try:
            settlement = await self._settlements.settle(call.reservation_id, call.actual, deadline)
        except NotFound:  # counted there; a proxy would only repeat it
            return RequestDecision(allowed=True, statuses=(passed(),))
        allowed = settlement.result.charged
        return RequestDecision(allowed, (passed() if allowed else refused(Reason.OVER_LIMIT, Source.STORE),))


def _is_end(descriptor: Descriptor) -> bool:
    return any(key == RESERVATION_ID for key, _ in descriptor.entries)


def _ended(ends: Sequence[Descriptor]) -> EndedCall:
    """The end that one or several descriptors are of: the first with hits of its own has the actual cost."""
    reservation_id = ends[0].entries[0][1]
    for index, end in enumerate(ends):
        if len(end.entries) != 1:
            raise InvalidArgument.of(
                f"descriptors[{index}].entries",
                f"has {len(end.entries)} entries; {RESERVATION_ID} is to be the only one",
            )
        if end.hits < 0:
            raise InvalidArgument.of(
                f"descriptors[{index}].hits_addend", f"is {end.hits}; the actual cost of a call is 0 or more"
            )
        if end.entries[0][1] != reservation_id:
            raise InvalidArgument.of(
                f"descriptors[{index}].entries[0].value", "is another reservation than that of the first descriptor"
            )
    return EndedCall(reservation_id, next((end.hits for end in ends if end.has_hits), None))


def _decided(decision: Decision, limits: tuple[AppliedLimit, ...]) -> RequestDecision:
    """A decision as one on the call's only descriptor. On an allowed call it reports the limits that count tokens."""
    allowed, reason, source, policy, rules, results, binding, _, _ = decision
    if allowed:
        counting = [index for index, limit in enumerate(limits) if not isinstance(limit.algorithm, Concurrency)]
        if rules and counting:
            own = tuple([limits[index] for index in counting])
            status = decide_descriptor(own, tuple([results[index] for index in counting]), source, policy)
        else:
            status = passed(policy)
        return RequestDecision(allowed, (status._replace(reason=reason, source=source),))
    retry_after_us = decision.retry_after_us
    status = refused(reason, source, policy)._replace(wait_us=NEVER if retry_after_us is None else retry_after_us)
    if binding >= 0:
        reset_us = results[binding].reset_us
        status = status._replace(limit=limits[binding], reset_us=reset_us, limits=limits, results=results)
    return RequestDecision(allowed, (status,))
