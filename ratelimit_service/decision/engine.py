"""The decision engine: decides a check by its key's policy and its buckets."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

from ratelimit_service.decision.charge import Charge, ChargeResult, Counted, Exhausted, Reserve, costs_of
from ratelimit_service.decision.denial_memory import DenialMemory
from ratelimit_service.decision.explanation import Explanation
from ratelimit_service.decision.key_resolver import KeyName, KeyResolver
from ratelimit_service.decision.limit import MAX_TOKENS, check_hold, check_resource
from ratelimit_service.decision.outcome import UNDECIDED, Decision, decide, decide_by_share, preview, refusal_of
from ratelimit_service.decision.policy import Policy, Selection
from ratelimit_service.decision.ports import (
    BucketStore,
    FallbackStore,
    PartlyUnavailable,
    QueueTimeout,
    StoreUnavailable,
)
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.decision.reservation import Reservation, ReservationIds, pack
from ratelimit_service.decision.tally import NO_PLAN, DecisionTally
from ratelimit_service.decision.usage_tally import UsageTally
from ratelimit_service.errors import InvalidArgument, LookupDeferred, ServiceError, Unavailable

MAX_COST = MAX_TOKENS
"""Of one call, in tokens: as much as the largest limit has."""

MAX_REQUEST_ID_BYTES = 128
"""Of a `request_id` in UTF-8."""

_DENIED = (0, 0, 1, 0, 0, 1)
"""Counts of a call that its key's policy refuses, in the order of `usage.Counts`, flattened: one denied, and one denied
by the reason that its series has in place of limits."""

_DEGRADED_DENIED = (0, 0, 1, 0, 1, 1)
"""The same, degraded too."""

_UNKNOWN = Decision(allowed=False, reason=Reason.KEY_UNKNOWN, source=Source.POLICY)


class Check(NamedTuple):
    """One call to decide.

    Exactly one of `api_key` (as the caller presented it) and `key_id` (for callers that verified the secret themselves)
    is set. `resource`: at most 256 bytes without control characters. `cost`: 0 to MAX_COST tokens; 0 is a peek.
    `request_id`: at most 128 bytes; empty for a call that is not to be recognised when it is repeated. `afterwards`:
    whether the cost was incurred already, and is charged whatever the limits have; None for what is neither.
    `hold_us`: for how long the call is reserved, MIN_HOLD_US to MAX_HOLD_US; None: only if it takes slots of
    concurrency limits, and for as long as these say. `slots`: whether it may take any: somebody could settle it.
    `attempt`: 1 if a call with a `request_id` was not sent before, 0 or more than 1 if it may have been.
    """

    api_key: str = ""
    key_id: str = ""
    resource: str = ""
    cost: int = 1
    request_id: str = ""
    afterwards: bool | None = False
    hold_us: int | None = None
    slots: bool = True
    attempt: int = 0


class PreparedHold(NamedTuple):
    """What the ids of reservations by this check say, and for how long they are held."""

    packed: bytes
    hold_us: int


class PreparedCheck(NamedTuple):
    """A check with a policy that does not refuse it, ready to be charged; `hold` if it is a reservation.

    `asks`: whether the store has to decide it, whatever it has denied before.
    """

    policy: Policy
    selection: Selection
    charge: Charge
    cost: int
    hold: PreparedHold | None = None
    asks: bool = True


class DecisionEngine:
    """Decides calls. All its errors are ServiceErrors; nothing has been charged when one is raised.

    A call is prepared first, by its key's policy, and then decided by its buckets. A prepared check is valid for
    `decide` in the same iteration of the event loop, and later as long as its policy's `validity` is current. `buckets`
    are shared by all servers; `local` is this server's share of them, by which it decides while they are unavailable
    and the plan's `on_store_failure` is LOCAL; ALLOW is noted there. `usage` gets what the shared ones do not count.
    `ids` makes those of reservations. `denials` are those that the shared ones need not be asked for
    again; None: all are.
    """

    def __init__(  # noqa: PLR0913, PLR0917  what it decides by
        self,
        keys: KeyResolver,
        buckets: BucketStore,
        local: FallbackStore,
        usage: UsageTally,
        ids: ReservationIds,
        denials: DenialMemory | None = None,
    ) -> None:
        self._keys = keys
        self._buckets = buckets
        self._local = local
        self._usage = usage
        self._ids = ids
        self._denials = DenialMemory() if denials is None else denials
        self.tally = DecisionTally()
        """Decisions so far."""

    async def check(self, check: Check, deadline: float | None = None) -> Decision:
        """Decide one call, and charge its cost to every limit that applies, or to none."""
        return await self.decide(await self.prepare(check, deadline), deadline)

    async def prepare(self, check: Check, deadline: float | None = None) -> PreparedCheck | Decision:
        """Find the limits of a call, or decide it where no bucket is needed.

        Raises Unavailable for a charge made afterwards whose key was not looked up in time, so that it is repeated. The
        caller waits until DEADLINE, a monotonic time in seconds; None: for any time.
        """
        policy = self._keys.verified(check.api_key)
        if policy is None:
            try:
                policy = await self._resolve(check, deadline)
            except LookupDeferred:
                if is_charged_afterwards(check):
                    raise
                return UNDECIDED
        return _prepare(check, policy)

    async def prepare_all(
        self, checks: Sequence[Check], deadline: float | None = None
    ) -> list[PreparedCheck | Decision | ServiceError]:
        """Prepare independent calls, in their order. Where one fails, its error is its result.

        Raises Overloaded and DeadlineExceeded for all of them together, as `KeyResolver.resolve_all` does.
        """
        policies: list[Policy | ServiceError | None] = [self._keys.verified(check.api_key) for check in checks]
        if None in policies:  # the new ones all at once, so that they are read from Postgres together
            new = [index for index, policy in enumerate(policies) if policy is None]
            names = [KeyName(checks[index].api_key, checks[index].key_id) for index in new]
            found = await self._keys.resolve_all(names, deadline)
            for index, name, policy in zip(new, names, found, strict=True):
                policies[index] = policy if name.api_key or name.key_id else _no_key()
        return list(map(_try_prepare, checks, policies))

    async def decide(self, prepared: PreparedCheck | Decision, deadline: float | None = None) -> Decision:
        """Charge one call, unless DEADLINE passes before. Raises Overloaded and DeadlineExceeded."""
        if isinstance(prepared, Decision):
            decision = prepared
            self._count(decision)
        elif prepared.hold is not None:
            opened, reservation_id = self._reserve(prepared, prepared.hold)
            return _with_id(await self.decide(opened, deadline), reservation_id)
        else:
            decision = self._remembered(prepared) or await self._ask(prepared, deadline)
        policy = decision.policy
        self.tally[NO_PLAN if policy is None else policy.plan][decision.reason][decision.source] += 1
        if not decision.allowed:
            self._count_denial(decision)
        return decision

    def _remembered(self, check: PreparedCheck) -> Decision | None:
        """The decision on a check that the store would deny again, if that is known."""
        policy, selection, charge, _, _, asks = check
        denial = None if asks else self._denials.find(charge)
        if denial is None:
            return None
        self._usage.denied(charge, denial)
        return decide(policy, selection.rules, denial, Source.MEMORY)

    def holds_until(self, check: PreparedCheck) -> float:
        """Until when the same check will be denied from memory, if it is now: a monotonic time in seconds."""
        return self._denials.holds_until(check.charge)

    def count_again(self, check: PreparedCheck, decision: Decision, times: int) -> None:
        """Count TIMES more calls like this one, to which a DECISION from memory was given without asking here."""
        self._usage.denied(check.charge, ChargeResult(charged=False, limit_results=decision.results), times)
        plan = check.policy.plan
        self.tally[plan][decision.reason][decision.source] += times
        self.tally.deny(plan, decision.rules[decision.binding].limit.name, times)

    async def _ask(self, check: PreparedCheck, deadline: float | None) -> Decision:
        """Have the store decide a check."""
        sent = self._denials.now()
        try:
            (result,) = await self._buckets.charge((check.charge,), deadline)
        except QueueTimeout as error:
            raise refusal_of(error) from error
        except StoreUnavailable as error:
            return self._decide_without_store(check, error)
        if isinstance(result, Exhausted):
            self._denials.remember(check.charge, result, sent)
        return decide(check.policy, check.selection.rules, result, check.policy.source)

    def _reserve(self, check: PreparedCheck, hold: PreparedHold) -> tuple[PreparedCheck, str]:
        """The check as one reservation of its own, and the id of that."""
        opened = self._ids.make(hold.packed, check.cost, check.charge.request)
        charge = check.charge._replace(reservation=Reserve(opened.name, hold.hold_us))
        return check._replace(charge=charge, hold=None), opened.id

    async def decide_all(
        self, prepared: Sequence[PreparedCheck | Decision | ServiceError], deadline: float | None = None
    ) -> list[Decision | ServiceError]:
        """Charge independent calls, in this order, in one round trip to the buckets. Errors are passed through."""
        checks = [item for item in prepared if isinstance(item, PreparedCheck)]
        ids: dict[int, str] = {}  # of the reservations among them, by their numbers
        for number, check in enumerate(checks):
            if check.hold is not None:
                checks[number], ids[number] = self._reserve(check, check.hold)
        charged = await self._charge_all(checks, deadline)
        for number, reservation_id in ids.items():
            decision = charged[number]
            if isinstance(decision, Decision):
                charged[number] = _with_id(decision, reservation_id)
        decisions: list[Decision | ServiceError] = [*charged]
        if len(charged) < len(prepared):
            in_order = iter(charged)
            decisions = [next(in_order) if isinstance(item, PreparedCheck) else item for item in prepared]
            for item in prepared:
                if isinstance(item, Decision):
                    self._count(item)
        self._tally_all(decisions)
        return decisions

    async def explain(self, check: Check) -> Explanation:
        """Report what `check` would decide now, without charging. Raises Unavailable when a store is unavailable."""
        policy = self._keys.verified(check.api_key) or await self._resolve(check, None)
        prepared = _prepare(check._replace(request_id="", afterwards=False), policy)
        if isinstance(prepared, Decision):
            return Explanation(prepared, policy, Selection((), ()), check.resource)
        peek = prepared.charge._replace(costs=(0,) * len(prepared.charge.costs), counted=())
        try:
            (peek_result,) = await self._buckets.charge((peek,))
        except StoreUnavailable as error:
            raise Unavailable(str(error), reason="BUCKET_STORE_UNAVAILABLE") from error
        rules = prepared.selection.rules
        charge_result = preview(rules, peek_result.limit_results, check.cost)
        decision = decide(prepared.policy, rules, charge_result, prepared.policy.source)
        return Explanation(decision, policy, prepared.selection, check.resource)

    async def _resolve(self, check: Check, deadline: float | None) -> Policy | None:
        if check.key_id:
            return await self._keys.resolve_id(check.key_id, deadline)
        if not check.api_key:
            raise _no_key()
        return await self._keys.resolve(check.api_key, deadline)

    async def _charge_all(
        self, checks: Sequence[PreparedCheck], deadline: float | None
    ) -> list[Decision | ServiceError]:
        decisions: list[Decision | ServiceError | None] = [self._remembered(check) for check in checks]
        asking = [check for check, decision in zip(checks, decisions, strict=True) if decision is None]
        if len(asking) == len(checks):
            return await self._ask_all(checks, deadline)
        asked = iter(await self._ask_all(asking, deadline))
        return [next(asked) if decision is None else decision for decision in decisions]

    async def _ask_all(self, checks: Sequence[PreparedCheck], deadline: float | None) -> list[Decision | ServiceError]:
        if not checks:
            return []
        sent = self._denials.now()
        outcomes: Sequence[ChargeResult | StoreUnavailable]
        try:
            outcomes = await self._buckets.charge([check.charge for check in checks], deadline)
        except PartlyUnavailable as error:
            outcomes = error.results
        except StoreUnavailable as error:
            return [self._try_without_store(check, error) for check in checks]
        decisions: list[Decision | ServiceError] = []
        for check, outcome in zip(checks, outcomes, strict=True):
            if isinstance(outcome, StoreUnavailable):
                decisions.append(self._try_without_store(check, outcome))
                continue
            if isinstance(outcome, Exhausted):
                self._denials.remember(check.charge, outcome, sent)
            policy, selection, *_ = check
            decisions.append(decide(policy, selection.rules, outcome, policy.source))
        return decisions

    def _try_without_store(self, check: PreparedCheck, error: StoreUnavailable) -> Decision | ServiceError:
        if isinstance(error, QueueTimeout):
            return refusal_of(error)
        return self._decide_without_store(check, error)

    def _tally_all(self, decisions: Sequence[Decision | ServiceError]) -> None:
        tally = self.tally
        for decision in decisions:
            if isinstance(decision, Decision):
                policy = decision.policy
                tally[NO_PLAN if policy is None else policy.plan][decision.reason][decision.source] += 1
                if not decision.allowed:
                    self._count_denial(decision)

    def _count_denial(self, decision: Decision) -> None:
        """Count the limit that has denied a call, if one has."""
        if decision.policy is not None and decision.binding >= 0:
            self.tally.deny(decision.policy.plan, decision.rules[decision.binding].limit.name)

    def _count(self, decision: Decision) -> None:
        """Count a decision that needed no bucket."""
        if decision.counted is not None:
            series, cost, *_ = decision.counted
            self._usage.add(series, (1, cost) if decision.allowed else _DENIED)

    def _decide_without_store(self, check: PreparedCheck, error: StoreUnavailable) -> Decision:
        """Decide while the shared buckets are unavailable, by the plan's `on_store_failure`."""
        policy, selection, charge, cost, *_ = check
        counts = charge.counted and not error.sent  # else the store counts it, or a late reply
        if policy.on_store_failure is OnStoreFailure.ALLOW:
            self._local.spend(charge, error)
            if counts:
                self._usage.add(selection.series, (1, cost, 0, 0, 1))
            return Decision(allowed=True, reason=Reason.DEGRADED_ALLOWED, source=Source.DEGRADED, policy=policy)
        if policy.on_store_failure is OnStoreFailure.DENY:
            if charge.afterwards:  # it was incurred all the same
                self._local.spend(charge, error)
                if counts:
                    self._usage.add(selection.series, (1, cost, 0, 0, 1))
            elif counts:
                self._usage.add(selection.series.with_limits(Reason.DEGRADED_DENIED.name), _DEGRADED_DENIED)
            return Decision(allowed=False, reason=Reason.DEGRADED_DENIED, source=Source.DEGRADED, policy=policy)
        charge_result = self._local.decide(charge, error)
        if counts:
            self._usage.charged(charge, charge_result, degraded=True)
        return decide_by_share(policy, selection.rules, charge_result, cost)


def _no_key() -> InvalidArgument:
    return InvalidArgument.of("api_key", "is empty; send the key as `rlk_<env>_<id>_<secret>`")


def _prepare(check: Check, policy: Policy | None) -> PreparedCheck | Decision:
    cost = check.cost
    if not 0 <= cost <= MAX_COST:
        raise InvalidArgument.of("cost", f"is {cost}; it must be between 0 and {MAX_COST}")
    _check_options(check)
    if policy is None:
        check_resource("resource", check.resource)
        return _UNKNOWN
    if check.hold_us is not None or (policy.has_slots and check.slots and not check.afterwards):
        selection = policy.select_held(check.resource, reserved=check.hold_us is not None)
        hold_us = check.hold_us or (selection.default_hold_us if cost else 0)
        if hold_us and policy.refusal is None:
            return _prepare_held(check, policy, selection, hold_us)
    else:
        selection = policy.select(check.resource)
    counted = Counted(selection.series, cost) if cost else None
    if policy.refusal is not None:
        source = policy.refusal_source
        return Decision(allowed=False, reason=policy.refusal, source=source, policy=policy, counted=counted)
    if not selection.buckets:
        return Decision(allowed=True, reason=Reason.WITHIN_LIMIT, source=Source.POLICY, policy=policy, counted=counted)
    request = _request_name(policy.key_id, check) if check.request_id else ""
    charge = Charge(
        selection.buckets,
        costs_of(selection.buckets, cost),
        request,
        (counted,) if counted is not None else (),
        bool(check.afterwards) and cost > 0,
    )
    asks = cost == 0 or charge.afterwards or (bool(request) and check.attempt != 1)
    return PreparedCheck(policy, selection, charge, cost, asks=asks)


def is_charged_afterwards(check: Check) -> bool:
    """Whether a denial would lose the charge without a word: the call is over, and nobody obeys the response."""
    return bool(check.afterwards) and check.cost > 0


def _check_options(check: Check) -> None:
    if check.request_id:
        _check_request_id(check.request_id)
    if check.afterwards is None:
        raise InvalidArgument.of("charge", "is none that this server knows; use IF_ALLOWED or ALWAYS")
    if check.hold_us is not None:
        check_hold("hold", check.hold_us)
        if check.afterwards:
            raise InvalidArgument.of("hold", "is set for a charge made afterwards, which has no estimate; leave it out")


def _prepare_held(check: Check, policy: Policy, selection: Selection, hold_us: int) -> PreparedCheck:
    """Prepare a call that is a reservation."""
    buckets, series = selection.buckets, selection.series
    costs = tuple([bucket.limit.reserved_of(check.cost) for bucket in buckets])
    counted = Counted(series, check.cost)
    request = _request_name(policy.key_id, check) if check.request_id else ""
    packed = pack(Reservation(policy.key_id, buckets, series))
    charge = Charge(buckets, costs, request, (counted,))
    return PreparedCheck(policy, selection, charge, check.cost, PreparedHold(packed, hold_us))


def _with_id(decision: Decision, reservation_id: str) -> Decision:
    """The decision on a reservation, with its id if the store has made it."""
    if not decision.allowed or decision.source is Source.DEGRADED:
        return decision
    return decision._replace(reservation_id=reservation_id)


def _try_prepare(check: Check, policy: Policy | ServiceError | None) -> PreparedCheck | Decision | ServiceError:
    if isinstance(policy, LookupDeferred) and not is_charged_afterwards(check):
        return UNDECIDED
    if isinstance(policy, ServiceError):
        return policy
    try:
        return _prepare(check, policy)
    except ServiceError as error:
        return error


def _check_request_id(request_id: str) -> None:
    size = len(request_id.encode())
    if size > MAX_REQUEST_ID_BYTES:
        raise InvalidArgument.of("request_id", f"has {size} bytes; at most {MAX_REQUEST_ID_BYTES} are allowed")


def _request_name(key_id: str, check: Check) -> str:
    """The name under which the result is kept: the same call with the same id, and no other, has the same name."""
    call = f"{key_id}\0{check.cost}\0{check.resource}\0{check.request_id}" + "\0afterwards" * bool(check.afterwards)
    if check.hold_us is not None:
        call += f"\0hold {check.hold_us}"
    return blake2b(call.encode(), digest_size=12).hexdigest()
