"""The decision on a check, and how it follows from the results of its buckets."""

from typing import Final, NamedTuple

from ratelimit_service.decision.charge import NEVER, NO_ROOM, UNKNOWN_WAIT, ChargeResult, Counted, LimitResult
from ratelimit_service.decision.limit import EXACT, MICRO, Concurrency, Limit, TokenBucket
from ratelimit_service.decision.policy import Policy, Rule
from ratelimit_service.decision.ports import QueueTimeout
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.errors import DeadlineExceeded, Overloaded, ServiceError


class Decision(NamedTuple):
    """Whether a call is allowed, and why.

    `policy` is None when the key is unknown, and in UNDECIDED. `rules` were evaluated, each with its result in
    `results`; both are empty when no bucket was needed. `binding` is the index of the rule that determined
    the decision, -1 when none did. `counted` is what the decision counts for if no bucket was needed. `reservation_id`
    settles the call, empty if there is nothing to settle.
    """

    allowed: bool
    reason: Reason
    source: Source
    policy: Policy | None = None
    rules: tuple[Rule, ...] = ()
    results: tuple[LimitResult, ...] = ()
    binding: int = -1
    counted: Counted | None = None
    reservation_id: str = ""

    @property
    def retry_after_us(self) -> int | None:
        """Microseconds until the same call fits, or None when it was allowed or no wait would help."""
        if self.allowed or self.binding < 0:
            undecided = self.policy is None and self.reason is Reason.DEGRADED_DENIED
            return UNDECIDED_RETRY_US if undecided else None
        wait = self.results[self.binding].wait_us
        return wait if wait > 0 else None


UNDECIDED_RETRY_US: Final = MICRO
"""Microseconds after which to repeat a call that was not decided in time."""

UNDECIDED: Final = Decision(allowed=False, reason=Reason.DEGRADED_DENIED, source=Source.DEGRADED)
"""The decision on a call for which something had to be looked up whose turn did not come in time.

A denial and no error, because a gateway may let calls through on errors. Nothing was charged, and it is not cached.
"""

_FITS = Reason.WITHIN_LIMIT
_new = tuple.__new__  # a third of what calling the class costs, which is done for every call


def decide(policy: Policy, rules: tuple[Rule, ...], charge_result: ChargeResult, source: Source) -> Decision:
    """Decide by the result of charging the rules' buckets."""
    charged, results, *_ = charge_result
    if charged:
        binding = _tightest(rules, results)
        return _new(Decision, (True, _FITS, source, policy, rules, results, binding, None, ""))
    for _, wait, _ in results:
        if wait == NO_ROOM:
            return _decide_without_room(policy, rules, results)
    binding = 0 if len(rules) == 1 else _slowest(rules, results)
    never = results[binding][1] == NEVER
    reason = Reason.COST_EXCEEDS_CAPACITY if never else Reason.OVER_LIMIT
    return _new(Decision, (False, reason, source, policy, rules, results, binding, None, ""))


def without_marks(results: tuple[LimitResult, ...]) -> tuple[LimitResult, ...]:
    """RESULTS with a time after which to try again where the store had no room."""
    return tuple(
        [result._replace(wait_us=UNDECIDED_RETRY_US) if result.wait_us == NO_ROOM else result for result in results]
    )


def _decide_without_room(policy: Policy, rules: tuple[Rule, ...], results: tuple[LimitResult, ...]) -> Decision:
    """Deny what would have needed a new bucket, unless a limit denies it for longer anyway."""
    decision = decide(policy, rules, ChargeResult(charged=False, limit_results=without_marks(results)), Source.STORE)
    if results[decision.binding].wait_us == NO_ROOM:
        return decision._replace(reason=Reason.DEGRADED_DENIED, source=Source.DEGRADED)
    return decision


def decide_by_share(policy: Policy, rules: tuple[Rule, ...], charge_result: ChargeResult, cost: int) -> Decision:
    """Decide by the result of charging this server's own share of the limits.

    A cost that is above the share, but not above the limit itself, would fit once the store is back: its denial must
    not claim that no retry can succeed. If it is above one of several limits themselves, that one is named.
    """
    decision = decide(policy, rules, charge_result, Source.DEGRADED)
    if decision.reason is not Reason.COST_EXCEEDS_CAPACITY:
        return decision
    for index, rule in enumerate(rules):
        if rule.enforced and rule.limit.tokens_of(cost) > rule.limit.capacity:
            return decision._replace(binding=index)
    return decision._replace(reason=Reason.DEGRADED_DENIED)


def preview(rules: tuple[Rule, ...], peek_results: tuple[LimitResult, ...], cost: int) -> ChargeResult:
    """The result that charging COST now would have, computed from a peek at the buckets (a charge of 0)."""
    tokens = [
        int(cost > 0) if isinstance(rule.limit.algorithm, Concurrency) else rule.limit.tokens_of(cost) for rule in rules
    ]
    waits = [wait_for(rule.limit, peek, own) for rule, peek, own in zip(rules, peek_results, tokens, strict=True)]
    charged = all(wait == 0 or not rule.enforced for rule, wait in zip(rules, waits, strict=True))
    return ChargeResult(
        charged,
        tuple(
            LimitResult(peek.remaining - (own * MICRO if charged and not wait else 0), wait, peek.reset_us)
            for peek, wait, own in zip(peek_results, waits, tokens, strict=True)
        ),
    )


def wait_for(limit: Limit, peek: LimitResult, tokens: int) -> int:
    """Microseconds until TOKENS fit the limit, by a peek at its bucket. 0 when they fit, NEVER when they never will.

    A peek (0 tokens) at a limit with an overdraft fits if one token is left.
    """
    if tokens <= 0:
        return peek.wait_us if tokens == 0 else 0
    missing = tokens * MICRO - peek.remaining
    if missing <= 0:
        return 0
    if isinstance(limit.algorithm, Concurrency):
        return UNKNOWN_WAIT
    if tokens > limit.capacity:
        return NEVER
    algorithm = limit.algorithm
    if not isinstance(algorithm, TokenBucket):
        return peek.reset_us
    numerator, denominator = algorithm.rate
    return -(-missing * denominator // numerator)


def _tightest(rules: tuple[Rule, ...], results: tuple[LimitResult, ...]) -> int:
    """The enforced rule with the smallest share left."""
    if len(rules) == 1:
        return 0 if rules[0].enforced else -1
    binding, smallest = -1, 2.0
    for index, rule in enumerate(rules):
        if rule.enforced:
            share = results[index].remaining / rule.limit.capacity / MICRO
            if share < smallest:
                binding, smallest = index, share
    return binding


def _slowest(rules: tuple[Rule, ...], results: tuple[LimitResult, ...]) -> int:
    """The enforced rule with the longest wait; of those whose wait is not known, one that never fits is the slowest."""
    binding, longest = -1, 0
    for index, rule in enumerate(rules):
        if rule.enforced:
            wait = results[index].wait_us
            if wait == NEVER:
                return index
            if wait == UNKNOWN_WAIT:
                binding, longest = index, EXACT
            elif wait > longest:
                binding, longest = index, wait
    return binding


def refusal_of(error: QueueTimeout) -> ServiceError:
    """The error of a call that was not charged because its turn did not come: the store has not failed."""
    if error.deadline:
        return DeadlineExceeded(f"{error}; allow the call more time")
    return Overloaded(f"{error}: the server has more calls than it can decide in time")
