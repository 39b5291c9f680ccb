"""Grants units of calls ahead to callers that decide calls by themselves, and takes returns of what they did not spend.

What is granted is charged at once, so that whatever becomes of its holder, no more is spent than the limits admit
(docs/adr/0038). Nothing here is a decision on a call: what holders decide they report, and it counts as usage.
"""

import re
from collections.abc import Sequence
from enum import IntEnum
from hashlib import blake2b
from typing import Final, NamedTuple

from ratelimit_service.decision.charge import (
    MIN_GRANT_US,
    NO_ROOM,
    REPORTED,
    USED_UP,
    Charge,
    ChargeResult,
    Counted,
    Grant,
    Granted,
    Return,
    costs_of,
)
from ratelimit_service.decision.covering import prefix_of
from ratelimit_service.decision.denial_memory import DenialMemory
from ratelimit_service.decision.key_resolver import KeyResolver
from ratelimit_service.decision.limit import MAX_TOKENS, MICRO, NAME, Concurrency, TokenBucket
from ratelimit_service.decision.outcome import Decision, decide, refusal_of
from ratelimit_service.decision.policy import NO_EXPIRY, Policy, Rule
from ratelimit_service.decision.ports import BucketStore, Clock, QueueTimeout, StoreUnavailable
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.decision.usage import parse_field
from ratelimit_service.errors import InvalidArgument

MAX_UNITS: Final = 1_000_000
"""Of one grant."""

MAX_RETURNS: Final = 64
"""Grants that one call returns."""

MAX_SPENT: Final = 256
"""Resources, of all grants that one call returns, whose calls it reports."""

MAX_CALLS: Final = 2**32 - 1
"""Of one resource that one return reports, allowed or denied."""

MAX_GRANTS: Final = 1_000
"""That this process makes of one key in a second."""

MAX_TTL_US: Final = MICRO
"""Microseconds for which units may be spent: so much later than this server at most, callers learn of a revocation."""

SHARE: Final = 4
"""Of the units that the tightest limit has left, one in so many is granted: others are about to ask, too."""

_FILLED: Final = 5
"""A grant lasts for this part of the time in which a token bucket fills: clients who ask half of that in advance spend
99 % of what it admits."""

_SOON_US: Final = MICRO
_LATER_US: Final = 10 * MICRO
"""After which to ask again where something has to change first: in a store or by the switch; in a plan."""

_ID: Final = re.compile(r"[0-9a-f]{32}")
_UNKNOWN: Final = Decision(allowed=False, reason=Reason.KEY_UNKNOWN, source=Source.POLICY)


class PerCall(IntEnum):
    """Why calls have to be checked one by one. The numbers are those of `ratelimit.v1.GrantResponse.PerCall`."""

    NO = 0
    OVERDRAFT = 1
    CALLS_AT_ONCE = 2
    REFILLS_TOO_FAST = 3
    ENDS_TOO_SOON = 4
    UNENFORCED = 5
    STORE_UNAVAILABLE = 6
    TOO_MANY_GRANTS = 7


class SpentCalls(NamedTuple):
    """Calls of a resource that a holder has decided, the tokens of those allowed, and the limit that denied the others.

    `limit` is empty if that is not known.
    """

    resource: str
    allowed: int
    denied: int
    cost: int
    limit: str = ""


class ReturnedGrant(NamedTuple):
    """A grant of which UNUSED units were not spent, and what its holder has decided."""

    grant_id: str
    unused: int
    spent: Sequence[SpentCalls] = ()


class GrantCall(NamedTuple):
    """A call for WANTS units of COST tokens each, none if it is 0, and the grants that it returns before.

    `api_key` or `key_id` is set, as in `Check`. `grant_id`: 32 hexadecimal digits.
    """

    grant_id: str = ""
    api_key: str = ""
    key_id: str = ""
    resource: str = ""
    cost: int = 1
    wants: int = 0
    returns: Sequence[ReturnedGrant] = ()


class GrantOutcome(NamedTuple):
    """What was granted: so many UNITS, for TTL_US microseconds; without units it may be asked again after ASK_AGAIN_US.

    `per_call`: why calls have to be checked one by one meanwhile. `decision`: that on one unit, None where nothing was
    decided. `prefix`: the grant is good for all resources that begin with it; None: for its own alone. `returned`:
    whether the store has made the returns.
    """

    grant_id: str
    units: int = 0
    ttl_us: int = 0
    ask_again_us: int = 0
    per_call: PerCall = PerCall.NO
    decision: Decision | None = None
    prefix: str | None = None
    returned: bool = True


class Grants:
    """Makes grants and returns them. The store keeps all there is to know of them. All its errors are ServiceErrors.

    When one is raised the same call can be repeated: nothing is granted, returned or counted twice.
    """

    def __init__(
        self, keys: KeyResolver, buckets: BucketStore, clock: Clock, denials: DenialMemory | None = None
    ) -> None:
        """What is returned is forgotten in DENIALS; None: in none."""
        self._denials = DenialMemory() if denials is None else denials
        self._keys = keys
        self._buckets = buckets
        self._clock = clock
        self._second = 0
        self._made: dict[str, int] = {}  # of each key in this second
        self.asked = 0
        """Calls so far that wanted units."""

    async def grant(self, call: GrantCall, deadline: float | None = None) -> GrantOutcome:
        """Return grants, and then make one, unless DEADLINE passes before: a monotonic time in seconds.

        Raises InvalidArgument; Unavailable if the key was not looked up in time; Overloaded and DeadlineExceeded.
        """
        _check(call)
        policy = self._keys.verified(call.api_key)
        if policy is None:
            policy = await self._resolve(call, deadline)
        self.asked += call.wants > 0
        if policy is None:
            return GrantOutcome(call.grant_id, ask_again_us=_SOON_US if call.wants else 0, decision=_UNKNOWN)
        planned = self._plan(call, policy)
        charges = [_charge_of(policy, index, each) for index, each in enumerate(call.returns)]
        if isinstance(planned, Charge):
            charges.append(planned)
        try:
            results = await self._buckets.charge(charges, deadline) if charges else ()
        except QueueTimeout as error:
            raise refusal_of(error) from error
        except StoreUnavailable:
            outcome = _unavailable(call) if isinstance(planned, Charge) else planned
            return outcome._replace(returned=not call.returns)
        for each in charges[: len(call.returns)]:  # at once for this worker's calls; others hear of it
            self._denials.forget([bucket.name for bucket in each.buckets])
        return _outcome(call, policy, results[-1]) if isinstance(planned, Charge) else planned

    async def _resolve(self, call: GrantCall, deadline: float | None) -> Policy | None:
        if call.key_id:
            return await self._keys.resolve_id(call.key_id, deadline)
        return await self._keys.resolve(call.api_key, deadline)

    def _plan(self, call: GrantCall, policy: Policy) -> Charge | GrantOutcome:
        """The charge that makes the grant, or its outcome where no bucket is needed."""
        selection, outcome = policy.select(call.resource), GrantOutcome(call.grant_id)
        if not call.wants:
            return outcome
        if policy.refusal is not None:
            refused = Decision(allowed=False, reason=policy.refusal, source=policy.refusal_source, policy=policy)
            return outcome._replace(ask_again_us=_SOON_US, decision=refused)
        now_us, ttl_us = self._clock.now_us(), _ttl_of(selection.rules)
        if policy.validity.expires_us != NO_EXPIRY:
            ttl_us = min(ttl_us, policy.validity.expires_us - now_us)
        per_call, again_us = _per_call(policy, selection.rules, call.resource), _LATER_US
        if per_call is PerCall.UNENFORCED:
            again_us = _SOON_US
        elif not per_call and ttl_us < MIN_GRANT_US:
            per_call, again_us = PerCall.ENDS_TOO_SOON, max(ttl_us, 1_000)
        elif not per_call and not self._has_turn(policy.key_id, now_us):
            per_call, again_us = PerCall.TOO_MANY_GRANTS, MICRO - now_us % MICRO
        if per_call:
            return outcome._replace(ask_again_us=again_us, per_call=per_call)
        if not selection.buckets:
            free = Decision(allowed=True, reason=Reason.WITHIN_LIMIT, source=Source.POLICY, policy=policy)
            prefix = _prefix_of(policy, call.resource)
            return outcome._replace(units=call.wants, ttl_us=ttl_us, decision=free, prefix=prefix)
        grant = Grant(_name_of(policy, call.grant_id), ttl_us, call.wants, SHARE, _number_of(call))
        return Charge(selection.buckets, costs_of(selection.buckets, call.cost), reservation=grant)

    def _has_turn(self, key_id: str, now_us: int) -> bool:
        """Whether the key may have one more grant in this second."""
        second = now_us // MICRO
        if second != self._second:
            self._second = second
            self._made.clear()
        made = self._made[key_id] = self._made.get(key_id, 0) + 1
        return made <= MAX_GRANTS


def _per_call(policy: Policy, rules: Sequence[Rule], resource: str) -> PerCall:
    """Why calls by these RULES, which apply to RESOURCE, have to be checked one by one."""
    if policy.source is Source.UNENFORCED:
        return PerCall.UNENFORCED
    if any(
        rule.enforced and isinstance(rule.limit.algorithm, Concurrency) and rule.limit.matches(resource)
        for rule in (policy.rules if policy.has_slots else ())
    ):
        return PerCall.CALLS_AT_ONCE
    if any(rule.enforced and rule.limit.overdraft is not None for rule in rules):
        return PerCall.OVERDRAFT
    return PerCall.REFILLS_TOO_FAST if _ttl_of(rules) < MIN_GRANT_US else PerCall.NO


def _ttl_of(rules: Sequence[Rule]) -> int:
    """Microseconds for which units of these rules may be spent at most: the store knows when windows end."""
    ttl_us = MAX_TTL_US
    for rule in rules:
        algorithm = rule.limit.algorithm
        if rule.enforced and isinstance(algorithm, TokenBucket):
            numerator, denominator = algorithm.rate
            ttl_us = min(ttl_us, algorithm.capacity * MICRO * denominator // (numerator * _FILLED))
    return ttl_us


def _outcome(call: GrantCall, policy: Policy, result: ChargeResult) -> GrantOutcome:
    """The outcome by the result of charging the rules' buckets."""
    outcome, rules = GrantOutcome(call.grant_id), policy.select(call.resource).rules
    match result.hold:
        case Granted(_, units, left_us) if units:
            decision = decide(policy, rules, result, policy.source)
            prefix = _prefix_of(policy, call.resource)
            return outcome._replace(units=units, ttl_us=left_us, decision=decision, prefix=prefix)
        case Granted(_, _, left_us) if left_us == USED_UP:
            return outcome
        case Granted(_, _, left_us) if left_us == NO_ROOM:
            return _unavailable(call)
        case Granted(_, _, left_us) if left_us:
            return outcome._replace(ask_again_us=left_us, per_call=PerCall.ENDS_TOO_SOON)
    decision = decide(policy, rules, result, policy.source)
    return outcome._replace(ask_again_us=decision.retry_after_us or _LATER_US, decision=decision)


def _unavailable(call: GrantCall) -> GrantOutcome:
    return GrantOutcome(call.grant_id, ask_again_us=_SOON_US, per_call=PerCall.STORE_UNAVAILABLE)


def _charge_of(policy: Policy, index: int, each: ReturnedGrant) -> Charge:
    """The charge that returns a grant: it may have taken from any of the key's limits that count tokens."""
    buckets = tuple([rule.bucket for rule in policy.rules if not isinstance(rule.limit.algorithm, Concurrency)])
    counted = tuple([_counted(policy, f"returns[{index}].spent[{line}]", one) for line, one in enumerate(each.spent)])
    own = Return(_name_of(policy, each.grant_id), min(each.unused, MAX_UNITS))
    return Charge(buckets, (0,) * len(buckets), counted=counted, reservation=own)


def _counted(policy: Policy, field: str, spent: SpentCalls) -> Counted:
    """What a holder reports of one resource, as counts of its series."""
    try:
        series = policy.select(spent.resource).series
    except InvalidArgument as error:
        raise error.under(field) from None
    limits = parse_field(series.field).limits
    denied = [0] * (2 * len(limits))
    limit = spent.limit if policy.refusal is None else policy.refusal.name
    if limit in limits:
        denied[2 * limits.index(limit)] = spent.denied
    return Counted(series, 0, REPORTED, (spent.allowed, spent.cost, spent.denied, 0, 0, *denied))


def _prefix_of(policy: Policy, resource: str) -> str | None:
    return prefix_of([rule.limit.resource for rule in policy.rules], resource)


def _name_of(policy: Policy, grant_id: str) -> bytes:
    """The name under which the store keeps a grant: that of another key with the same id is another."""
    return blake2b(f"{policy.key_id}\0{grant_id}".encode(), digest_size=16).digest()


def _number_of(call: GrantCall) -> int:
    """A number that the same call has when it is repeated, and nearly no other."""
    return int.from_bytes(blake2b(f"{call.cost}\0{call.wants}\0{call.resource}".encode(), digest_size=6).digest())


def _check(call: GrantCall) -> None:
    """Raise InvalidArgument for what is out of bounds."""
    if bool(call.api_key) is bool(call.key_id):
        raise InvalidArgument.of("api_key", "is empty; send the key as `rlk_<env>_<id>_<secret>`, or its `key_id`")
    if not 0 <= call.wants <= MAX_UNITS:
        raise InvalidArgument.of("wants", f"is {call.wants}; it must be between 1 and {MAX_UNITS}, or 0 to return only")
    if not 1 <= call.cost <= MAX_TOKENS:
        raise InvalidArgument.of("cost", f"is {call.cost}; one unit takes 1 to {MAX_TOKENS} tokens")
    if not call.wants and not call.returns:
        raise InvalidArgument.of("wants", "is 0, and there are no returns; ask for units, or return some")
    if call.wants or call.grant_id:
        _check_id("grant_id", call.grant_id)
    _check_returns(call)


def _check_returns(call: GrantCall) -> None:
    if len(call.returns) > MAX_RETURNS:
        raise InvalidArgument.of("returns", f"has {len(call.returns)} entries; at most {MAX_RETURNS} are accepted")
    lines = sum(len(each.spent) for each in call.returns)
    if lines > MAX_SPENT:
        raise InvalidArgument.of("returns", f"have {lines} entries of `spent`; at most {MAX_SPENT} are accepted")
    for index, (grant_id, _, spent) in enumerate(call.returns):
        _check_id(f"returns[{index}].grant_id", grant_id)
        if call.wants and grant_id == call.grant_id:
            raise InvalidArgument.of(f"returns[{index}].grant_id", "is that of the grant; make a new id for each")
        for line, each in enumerate(spent):
            _check_spent(f"returns[{index}].spent[{line}]", each)


def _check_id(field: str, grant_id: str) -> None:
    if not _ID.fullmatch(grant_id):
        raise InvalidArgument.of(field, "is no id of a grant; make one of 16 random bytes, as 32 digits of 0-9 a-f")


def _check_spent(field: str, spent: SpentCalls) -> None:
    for name, number, most in (
        ("allowed", spent.allowed, MAX_CALLS),
        ("denied", spent.denied, MAX_CALLS),
        ("cost", spent.cost, MAX_TOKENS if spent.allowed else 0),
    ):
        if number > most:
            why = "" if name != "cost" or spent.allowed else ", since no call was allowed"
            raise InvalidArgument.of(f"{field}.{name}", f"is {number}; it must be between 0 and {most}{why}")
    if spent.limit and not NAME.fullmatch(spent.limit):
        raise InvalidArgument.of(f"{field}.limit", "is no name of a limit; send `limit` of the decision, or nothing")
