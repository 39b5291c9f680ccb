"""The arithmetic of buckets in plain Python: the reference for the Lua script, and the fallback for it.

The state of a token bucket is the amount used rather than the amount left, so that one state serves buckets and quotas
alike and outlives a change of their sizes. The used amount drains at the refill rate (a leaky bucket as a meter, ITU-T
I.371 annex A; the same as GCRA, counted in tokens and not in time). Integers only, so nothing is rounded.
"""

from collections.abc import Callable, MutableMapping, Sequence
from typing import NamedTuple

from ratelimit_service.decision.charge import NEVER, Bucket, Charge, ChargeResult, LimitResult
from ratelimit_service.decision.limit import EXACT, MICRO, Limit, Mode, TokenBucket, Window
from ratelimit_service.decision.window import span


class State(NamedTuple):
    """How much of a bucket was in use, in micro-tokens, at a time in microseconds since 1970 UTC.

    `part / per` of a further micro-token had drained, 0 or more and less than 1.
    """

    used: int = 0
    at: int = 0
    part: int = 0
    per: int = 1


class Terms(NamedTuple):
    """A limit in the units of the arithmetic: micro-tokens, and micro-tokens per microseconds.

    `window` is None for a token bucket; a quota's rate is not used.
    """

    capacity: int
    rate: tuple[int, int]
    window: Window | None
    enforced: bool

    @classmethod
    def of(cls, limit: Limit, divisor: int = 1) -> "Terms":
        """LIMIT divided by DIVISOR, 1 or more, but never to less than one token."""
        capacity = max(limit.capacity * MICRO // divisor, MICRO)
        enforced = limit.mode is Mode.ENFORCE
        if isinstance(limit.algorithm, TokenBucket):
            numerator, denominator = limit.algorithm.rate
            return cls(capacity, (numerator, denominator * divisor), None, enforced)
        return cls(capacity, (0, 1), limit.algorithm.window, enforced)


class Advanced(NamedTuple):
    """A state advanced to `state.at`, which is now, or ahead of it when the clock has stepped back.

    `clamped`: the stored time was so far ahead that it was discarded.
    """

    state: State
    clamped: bool


def advance(terms: Terms, state: State, now_us: int) -> Advanced:
    """Subtract what has drained until now."""
    used, at, part, per = state
    if terms.window is None:
        numerator, denominator = terms.rate
        clamped = at - now_us > -(-terms.capacity * denominator // numerator)
        at = now_us if clamped else at
        when = max(at, now_us)
        drained, part = divmod((when - at) * numerator + (part if per == denominator else 0), denominator)
        if drained >= used:
            return Advanced(State(0, when, 0, denominator), clamped)
        return Advanced(State(used - drained, when, part, denominator), clamped)
    start, end = span(terms.window, now_us)
    clamped = at - now_us > end - start
    at = now_us if clamped else at
    when = max(at, now_us)
    return Advanced(State(used if at >= span(terms.window, when)[0] else 0, when), clamped)


def take(state: State, cost: int) -> State:
    """Add COST micro-tokens, perhaps negative, to the used amount of an advanced state."""
    used = state.used + cost
    return state._replace(used=used) if used > 0 else State(0, state.at, 0, state.per)


def time_until_drained(terms: Terms, state: State, amount: int, now_us: int) -> int:
    """Microseconds from now until AMOUNT micro-tokens (1 or more) of an advanced state will have drained."""
    if terms.window is not None:
        return span(terms.window, state.at)[1] - now_us
    numerator, denominator = terms.rate
    return min(state.at - now_us - (state.part - amount * denominator) // numerator, EXACT - 1)


def wait_until_fits(terms: Terms, state: State, cost: int, now_us: int) -> int:
    """Microseconds until COST micro-tokens fit an advanced state: 0 if they fit now, NEVER if they never will."""
    if cost <= 0 or state.used + cost <= terms.capacity:
        return 0
    if cost > terms.capacity:
        return NEVER
    return time_until_drained(terms, state, state.used + cost - terms.capacity, now_us)


def limit_result(terms: Terms, state: State, wait_us: int, now_us: int) -> LimitResult:
    """The result for an advanced state."""
    reset_us = time_until_drained(terms, state, state.used, now_us) if state.used else 0
    return LimitResult(max(terms.capacity - state.used, 0), wait_us, reset_us)


class ReferenceBuckets:
    """Buckets in memory, which by default never expire.

    `states` holds them by name and `request_results` the results by request, for stores that expire them; `terms`
    returns the terms of a bucket's limit, for stores that divide limits.
    """

    def __init__(
        self,
        states: MutableMapping[str, State] | None = None,
        request_results: MutableMapping[str, ChargeResult] | None = None,
        terms: Callable[[Bucket], Terms] = lambda bucket: Terms.of(bucket.limit),
    ) -> None:
        self._states: MutableMapping[str, State] = {} if states is None else states
        self._terms = terms
        self._request_results: MutableMapping[str, ChargeResult] = {} if request_results is None else request_results

    def charge(self, charges: Sequence[Charge], now_us: int) -> list[ChargeResult]:
        """Make each charge or none of it, in this order."""
        return [self._charge_once(charge, now_us) for charge in charges]

    def _charge_once(self, charge: Charge, now_us: int) -> ChargeResult:
        stored = self._request_results.get(charge.request) if charge.request else None
        if stored is None:
            result = self._charge(charge, now_us)
            if charge.request and result.charged:  # a denial is not kept: a repeat may fit by then
                self._request_results[charge.request] = result
            return result
        if len(stored.limit_results) == len(charge.buckets):
            return stored
        # It was evaluated with other buckets, before its policy changed: the same decision, and a peek at these ones.
        return ChargeResult(stored.charged, self._peek(charge, now_us))

    def _peek(self, charge: Charge, now_us: int) -> tuple[LimitResult, ...]:
        results = []
        for bucket, cost in zip(charge.buckets, charge.costs, strict=True):
            terms = self._terms(bucket)
            state = advance(terms, self._states.get(bucket.name, State()), now_us).state
            results.append(limit_result(terms, state, wait_until_fits(terms, state, cost * MICRO, now_us), now_us))
        return tuple(results)

    def _charge(self, charge: Charge, now_us: int) -> ChargeResult:
        before: dict[str, State] = {}
        results = []
        charged = True
        for bucket, tokens in zip(charge.buckets, charge.costs, strict=True):
            name, cost, terms = bucket.name, tokens * MICRO, self._terms(bucket)
            stored = self._states.get(name, State())
            state, clamped = advance(terms, stored, now_us)
            if clamped and cost:
                stored = self._states[name] = stored._replace(at=now_us)
            wait = wait_until_fits(terms, state, cost, now_us)
            if wait == 0 and cost:
                before.setdefault(name, stored)
                state = self._states[name] = take(state, cost)
            elif wait and terms.enforced:
                charged = False
            results.append(limit_result(terms, state, wait, now_us))
        if charged:
            return ChargeResult(charged, tuple(results))
        self._states.update(before)
        peeks = self._peek(charge, now_us)
        return ChargeResult(
            charged,
            tuple(peek._replace(wait_us=result.wait_us) for peek, result in zip(peeks, results, strict=True)),
        )
