"""The decision on a check, and how it follows from what its buckets answered."""

from typing import NamedTuple

from ratelimit_service.decision.charge import NEVER, ChargeResult, LimitResult
from ratelimit_service.decision.limit import MICRO, Limit, TokenBucket
from ratelimit_service.decision.policy import Policy, Rule
from ratelimit_service.decision.reason import Reason, Source


class Decision(NamedTuple):
    """Whether a call may go on, and why.

    `policy` is None when the key is unknown. `rules` were weighed, with what each said in `results`; both are empty
    when no bucket was asked. `binding` is the index of the rule that bound the decision, -1 when none did.
    """

    allowed: bool
    reason: Reason
    source: Source
    policy: Policy | None = None
    rules: tuple[Rule, ...] = ()
    results: tuple[LimitResult, ...] = ()
    binding: int = -1

    @property
    def retry_after_us(self) -> int | None:
        """Microseconds until the same call fits, or None when it was allowed or no wait would help."""
        if self.allowed or self.binding < 0:
            return None
        wait = self.results[self.binding].wait_us
        return None if wait == NEVER else wait


_FITS = Reason.WITHIN_LIMIT
_new = tuple.__new__  # a third of what calling the class costs, which is done for every call


def decide(policy: Policy, rules: tuple[Rule, ...], outcome: ChargeResult, source: Source) -> Decision:
    """Decide by the outcome of charging the rules' buckets."""
    charged, results = outcome
    if charged:
        binding = _tightest(rules, results)
        return _new(Decision, (True, _FITS, source, policy, rules, results, binding))
    binding = _slowest(rules, results)
    never = results[binding].wait_us == NEVER
    reason = Reason.COST_EXCEEDS_CAPACITY if never else Reason.OVER_LIMIT
    return _new(Decision, (False, reason, source, policy, rules, results, binding))


def decide_by_share(policy: Policy, rules: tuple[Rule, ...], outcome: ChargeResult, cost: int) -> Decision:
    """Decide by the outcome of charging this server's own share of the limits.

    A cost that is above the share, but not above the limit itself, would fit once the store is back: that denial must
    not tell the caller never to come again.
    """
    decision = decide(policy, rules, outcome, Source.DEGRADED)
    if decision.reason is Reason.COST_EXCEEDS_CAPACITY and cost <= rules[decision.binding].limit.capacity:
        return decision._replace(reason=Reason.DEGRADED_DENIED)
    return decision


def preview(rules: tuple[Rule, ...], peeked: tuple[LimitResult, ...], cost: int) -> ChargeResult:
    """What charging COST now would give, computed from a look at the buckets (a charge of 0)."""
    waits = [wait_for(rule.limit, seen, cost) for rule, seen in zip(rules, peeked, strict=True)]
    charged = all(wait == 0 or not rule.enforced for rule, wait in zip(rules, waits, strict=True))
    taken = cost * MICRO if charged else 0
    return ChargeResult(
        charged,
        tuple(
            LimitResult(seen.remaining - (0 if wait else taken), wait, seen.reset_us)
            for seen, wait in zip(peeked, waits, strict=True)
        ),
    )


def wait_for(limit: Limit, seen: LimitResult, cost: int) -> int:
    """Microseconds until COST fits the limit, by a look at its bucket. 0 when it fits, NEVER when it never will."""
    missing = cost * MICRO - seen.remaining
    if missing <= 0:
        return 0
    if cost > limit.capacity:
        return NEVER
    algorithm = limit.algorithm
    if not isinstance(algorithm, TokenBucket):
        return seen.reset_us
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
    """The enforced rule with the longest wait; one that never fits is the slowest of all."""
    binding, longest = -1, 0
    for index, rule in enumerate(rules):
        if rule.enforced:
            wait = results[index].wait_us
            if wait == NEVER:
                return index
            if wait > longest:
                binding, longest = index, wait
    return binding
