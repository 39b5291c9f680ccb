"""The arithmetic of buckets in plain Python: the reference for the Lua script, and the fallback for it.

The state of a token bucket is the amount used rather than the amount left, so that one state serves buckets and quotas
alike and outlives a change of their sizes. The used amount drains at the refill rate (a leaky bucket as a meter, ITU-T
I.371 annex A; the same as GCRA, counted in tokens and not in time). Integers only, so nothing is rounded.
"""

from collections.abc import Callable, MutableMapping, Sequence
from typing import NamedTuple, TypeAlias

from ratelimit_service.decision.charge import (
    GONE,
    MAX_HELD_US,
    MIN_GRANT_US,
    NEVER,
    UNCHANGED,
    UNKNOWN_WAIT,
    USED_UP,
    Bucket,
    Charge,
    ChargeResult,
    Extend,
    Grant,
    Granted,
    HoldChange,
    LimitResult,
    Reserve,
    Return,
    Returned,
    Settle,
)
from ratelimit_service.decision.limit import EXACT, MICRO, Concurrency, Limit, Mode, TokenBucket, Window
from ratelimit_service.decision.window import span

_YEAR_US = 366 * 86_400 * MICRO

MAX_LEVELS = 3
"""Levels of a bucket: of more, those charged longest ago are dropped, and start at their capacity again."""


class Level(NamedTuple):
    """What a token bucket has in use that holds less than what is used in all: at most its capacity and overdraft.

    `part` of its rate's denominator of a further micro-token had drained.
    """

    capacity: int
    rate: tuple[int, int]
    used: int
    part: int


class State(NamedTuple):
    """How much of a bucket was in use, in micro-tokens, at a time in microseconds since 1970 UTC.

    `part / per` of a further micro-token had drained, 0 or more and less than 1. `keep` is a time when all has drained
    for every limit that was charged. `levels` are those of limits that hold less than `used`, the one charged last
    first; while there are any, `used` drains at `rate`, and is void at `void`, if its limits were unknown. `refunded`:
    the micro-tokens that were refunded so far, and one; 0 until units were granted of it.
    """

    used: int = 0
    at: int = 0
    part: int = 0
    per: int = 1
    keep: int = 0
    rate: tuple[int, int] = (0, 1)
    void: int = EXACT - 1
    levels: tuple[Level, ...] = ()
    refunded: int = 0

    def refund(self, amount: int) -> "State":
        """The same after a refund was counted, if they are. Begins anew before the number is inexact in doubles."""
        if not self.refunded:
            return self
        return self._replace(refunded=self.refunded + amount if self.refunded < EXACT // 2 else 1)


class Terms(NamedTuple):
    """A limit in the units of the arithmetic: micro-tokens, and micro-tokens per microseconds.

    `window` is None for a token bucket; a quota's rate is not used. `overdraft` is None if it is not set. A share of a
    limit may owe the rest of it: what is charged afterwards was spent, whoever has it recorded. `slots`: whether it is
    a number of calls at once, of which each is a token.
    """

    capacity: int
    rate: tuple[int, int]
    window: Window | None
    enforced: bool
    overdraft: int | None = None
    slots: bool = False

    @property
    def most(self) -> int:
        """What may be used: the capacity and the overdraft."""
        return self.capacity + (self.overdraft or 0)

    @classmethod
    def of(cls, limit: Limit, divisor: int = 1) -> "Terms":
        """LIMIT divided by DIVISOR, 1 or more, but never to less than one token."""
        capacity = max(limit.capacity * MICRO // divisor, MICRO)
        enforced = limit.mode is Mode.ENFORCE
        overdraft = None if limit.overdraft is None else (limit.capacity + limit.overdraft) * MICRO - capacity
        if isinstance(limit.algorithm, TokenBucket):
            numerator, denominator = limit.algorithm.rate
            return cls(capacity, (numerator, denominator * divisor), None, enforced, overdraft)
        if isinstance(limit.algorithm, Concurrency):
            return cls(limit.capacity // divisor * MICRO or MICRO, (0, 1), None, enforced, slots=True)
        return cls(capacity, (0, 1), limit.algorithm.window, enforced, overdraft)


class Advanced(NamedTuple):
    """A state advanced to `state.at`, which is now, or ahead of it when the clock has stepped back.

    `clamped`: the stored time was so far ahead that it was discarded.
    """

    state: State
    clamped: bool


def advance(terms: Terms, state: State, now_us: int) -> Advanced:
    """Subtract what has drained until now, as a limit with these TERMS sees it: from its own level if it has one."""
    at = state.at
    if terms.window is None:
        clamped = at - now_us > -(-terms.most * terms.rate[1] // terms.rate[0])
        at = now_us if clamped else at
        when = max(at, now_us)
        level = _level_of(terms, state)
        used, part = drain(*(level[2:] if level else _main(state, terms.rate[1])), when - at, terms.rate)
        return Advanced(State(used, when, part, terms.rate[1]), clamped)
    start, end = span(terms.window, now_us)
    clamped = at - now_us > end - start
    at = now_us if clamped else at
    when = max(at, now_us)
    return Advanced(State(state.used if at >= span(terms.window, when)[0] else 0, when), clamped)


def drain(used: int, part: int, elapsed_us: int, rate: tuple[int, int]) -> tuple[int, int]:
    """What is left of USED after this time at this rate, and the part of a further micro-token that has drained."""
    drained, part = divmod(elapsed_us * rate[0] + part, rate[1])
    return (used - drained, part) if drained < used else (0, 0)


def _main(state: State, denominator: int) -> tuple[int, int]:
    """What is used in all, and the part, which means nothing to a rate with another denominator."""
    return state.used, state.part if state.per == denominator else 0


def _level_of(terms: Terms, state: State) -> Level | None:
    """The level by which a token bucket decides, None if that is what is used in all."""
    for level in state.levels:
        if (level.capacity, level.rate) == (terms.most, terms.rate):
            return level
    return Level(terms.most, terms.rate, terms.most, 0) if state.used > terms.most else None


def _rate_of(amount: int, time_us: int) -> tuple[int, int]:
    """The rate at which an AMOUNT of unknown limits drains, never faster than they drain; exact in doubles."""
    while amount * time_us >= EXACT:
        amount, time_us = amount // 2, -(-time_us // 2)
    return amount, time_us


def charged_state(terms: Terms, state: State, view: State, cost: int) -> State:
    """What a charge of COST makes of STATE, which TERMS see as VIEW, charged already."""
    if not state.levels and (terms.window is not None or state.used <= terms.most):
        return view._replace(keep=state.keep, refunded=state.refunded)
    elapsed_us = view.at - state.at
    own = _level_of(terms, state) if terms.window is None else None
    levels = [] if own is None else [own._replace(used=view.used, part=view.part)]
    for level in state.levels:
        if len(levels) < MAX_LEVELS and level != own:
            levels.append(_raised(level, elapsed_us, cost))
    used, part, rate, void = view.used, view.part, terms.rate, EXACT - 1
    if own is not None:
        used, part, rate, void = _raised_in_all(state, view.at, cost)
    elif terms.window is not None:
        rate, void = state.rate, max(state.void, span(terms.window, view.at)[1])
    kept = []
    for level in levels:
        if terms.window is None and level.used >= used:  # it needs no level of its own any more
            used, part, rate, void = level.used, level.part, level.rate, EXACT - 1
        else:
            kept.append(level)
    keep = state.keep
    if used:
        keep = max(keep, _drained_at(view.at, used, part, rate) if void == EXACT - 1 else void)
    return State(used, view.at, part, rate[1], keep, rate, void, tuple(kept), state.refunded)


def _raised_in_all(state: State, at: int, cost: int) -> tuple[int, int, tuple[int, int], int]:
    """What is used at AT, its part, its rate and when it is void, after a charge by a limit with a level of its own."""
    rate, void = state.rate, state.void
    if not state.levels:
        rate, void = _rate_of(state.used, max(state.keep - state.at, 1)), state.keep
    used, part = drain(*_main(state, rate[1]), at - state.at, rate)
    used = min(used + cost, EXACT - 1)
    if used <= 0 or at >= void:
        return 0, 0, rate, void
    # What is charged now outlives what the unknown limits were charged.
    return used, part, rate, max(void, _drained_at(at, used, part, rate))


def _drained_at(at: int, used: int, part: int, rate: tuple[int, int]) -> int:
    """When what is used at AT will have drained, a year later at most."""
    return min(at + min(_drain_time(used, part, rate), _YEAR_US), EXACT - 1)


def _raised(level: Level, elapsed_us: int, cost: int) -> Level:
    """A level of another limit than the one that is charged."""
    used, part = drain(level.used, level.part, elapsed_us, level.rate)
    if used + cost <= 0:
        return level._replace(used=0, part=0)
    if used + cost >= level.capacity:
        return level._replace(used=level.capacity, part=0)
    return level._replace(used=used + cost, part=part)


def _drain_time(amount: int, part: int, rate: tuple[int, int]) -> int:
    """Microseconds until AMOUNT has drained."""
    return -((part - amount * rate[1]) // rate[0])


def take(state: State, cost: int) -> State:
    """Add COST micro-tokens, perhaps negative, to the used amount of an advanced state."""
    used = state.used + cost
    return state._replace(used=used) if used > 0 else State(0, state.at, 0, state.per)


def second_of(at: int, hold_us: int) -> int:
    """The second with which a slot comes back whose hold of so many microseconds ends AT.

    That of its end for one below 64 s, up to a 32nd of the hold later for a longer one.
    """
    step = 1
    while hold_us >= 64 * step * MICRO:
        step *= 2
    return -(-at // (step * MICRO)) * step


def _undrained(terms: Terms, amount: int, reserved: int, made_at: int, at: int) -> int:
    """How much of what was RESERVED, AMOUNT of it for nothing, can be returned: what has not drained until AT."""
    if terms.window is not None:
        return 0 if made_at < span(terms.window, at)[0] else amount
    drained = -(-max(at - made_at, 0) * terms.rate[0] // terms.rate[1])
    return max(min(amount, reserved - drained), 0)


def _returned(terms: Terms, stored: State, amount: int, now_us: int) -> State:
    """STORED less an AMOUNT, as of its last charge: of the limit's own level alone if it decides by one."""
    keep, before, stored = max(stored.keep, now_us), stored, stored.refund(amount)
    if terms.window is None:
        for number, level in enumerate(stored.levels):
            if (level.capacity, level.rate) == (terms.most, terms.rate):
                left = max(level.used - amount, 0)
                changed = level._replace(used=left, part=level.part if left else 0)
                levels = (*stored.levels[:number], changed, *stored.levels[number + 1 :])
                return stored._replace(levels=levels, keep=keep)
        if stored.used > terms.most:
            return before
    used = max(stored.used - amount, 0)
    return stored._replace(used=used, part=stored.part if used else 0, keep=keep)


def time_until_drained(terms: Terms, state: State, amount: int, now_us: int) -> int:
    """Microseconds from now until AMOUNT micro-tokens (1 or more) of an advanced state will have drained."""
    if terms.window is not None:
        return span(terms.window, state.at)[1] - now_us
    return min(state.at - now_us + _drain_time(amount, state.part, terms.rate), EXACT - 1)


def wait_until_fits(terms: Terms, state: State, cost: int, now_us: int) -> int:
    """Microseconds until COST micro-tokens fit an advanced state: 0 if they fit now, NEVER if they never will.

    A peek (a cost of 0) at a limit with an overdraft fits if one token is left.
    """
    if cost == 0 and terms.overdraft is not None:
        cost = MICRO
    if cost <= 0 or state.used + cost <= terms.capacity:
        return 0
    if cost > terms.capacity:
        return NEVER
    return time_until_drained(terms, state, state.used + cost - terms.capacity, now_us)


def limit_result(terms: Terms, state: State, wait_us: int, now_us: int) -> LimitResult:
    """The result for an advanced state."""
    reset_us = time_until_drained(terms, state, state.used, now_us) if state.used else 0
    remaining = terms.capacity - state.used
    return LimitResult(remaining if terms.overdraft is not None else max(remaining, 0), wait_us, reset_us)


Marks: TypeAlias = tuple[tuple[str, bool], ...]
"""What the buckets of a charge are known by again: their names, and whether they hold slots."""


class Held(NamedTuple):
    """A reservation that was made, and whose hold ends, at these times in microseconds since 1970 UTC.

    Its slots come back with `second`. `untaken` are the positions of buckets from which nothing was taken. `settled` is
    its result once it is settled. `marks` are those of its buckets if it has a request, by which it may be repeated
    with others, once its policy has changed; empty otherwise. `settled_marks` are those of the buckets of the result.
    """

    made_at: int
    ends: int
    second: int
    untaken: frozenset[int] = frozenset()
    settled: ChargeResult | None = None
    marks: Marks = ()
    settled_marks: Marks = ()

    def taken_by(self, buckets: Sequence[Bucket]) -> "_Part":
        """The part that BUCKETS have in it."""
        marks = _marks_of(buckets)
        if not self.marks or marks == self.marks:
            return _Part(self.untaken, frozenset())
        positions = [self.marks.index(mark) if mark in self.marks else None for mark in marks]
        return _Part(
            frozenset(here for here, position in enumerate(positions) if position in self.untaken),
            frozenset(here for here, position in enumerate(positions) if position is None),
        )


class _Part(NamedTuple):
    """By their positions, buckets from which a reservation took nothing, and those that it was not made with."""

    untaken: frozenset[int]
    foreign: frozenset[int]


class Lent(NamedTuple):
    """A grant of so many UNITS that was made, and ends, at these times in microseconds since 1970 UTC.

    One unit took `tokens` of each bucket, by the names of those from which something was taken. `after`: by the same
    names the micro-tokens that were used then, and those that had been refunded. `call` is that of the grant.
    """

    made_at: int
    ends: int
    units: int
    call: int
    tokens: dict[str, int]
    after: dict[str, tuple[int, int]]


def _marks_of(buckets: Sequence[Bucket]) -> Marks:
    """What buckets are known by again, whatever sizes their limits have by then."""
    return tuple((bucket.name, isinstance(bucket.limit.algorithm, Concurrency)) for bucket in buckets)


class ReferenceBuckets:
    """Buckets in memory, which by default never expire.

    `states` holds them by name, `request_results` the results by request, `reservations` those by name, and `slots` by
    the names of concurrency limits how many of those that are taken come back in which seconds since 1970 UTC, for
    stores that expire them; `terms` returns the terms of a bucket's limit, for stores that divide limits.
    """

    def __init__(
        self,
        states: MutableMapping[str, State] | None = None,
        request_results: MutableMapping[str, ChargeResult] | None = None,
        terms: Callable[[Bucket], Terms] = lambda bucket: Terms.of(bucket.limit),
        reservations: MutableMapping[bytes, Held] | None = None,
        slots: MutableMapping[str, dict[int, int]] | None = None,
    ) -> None:
        self._states: MutableMapping[str, State] = {} if states is None else states
        self._terms = terms
        self._request_results: MutableMapping[str, ChargeResult] = {} if request_results is None else request_results
        self._reservations: MutableMapping[bytes, Held] = {} if reservations is None else reservations
        self._slots: MutableMapping[str, dict[int, int]] = {} if slots is None else slots
        self._grants: dict[bytes, Lent | None] = {}  # None: it was returned

    def charge(self, charges: Sequence[Charge], now_us: int) -> list[ChargeResult]:
        """Make each charge or none of it, in this order."""
        return [self._charge_once(charge, now_us) for charge in charges]

    def _charge_once(self, charge: Charge, now_us: int) -> ChargeResult:
        if isinstance(charge.reservation, Settle | Extend):
            return self._change(charge, charge.reservation, now_us)
        if isinstance(charge.reservation, Grant | Return):
            return self._grant_or_return(charge, charge.reservation, now_us)
        stored = self._request_results.get(charge.request) if charge.request else None
        held = self._reservations.get(charge.reservation.name) if charge.reservation else None
        is_open = held is not None and held.settled is None and held.ends > now_us
        if stored is None and held is not None and (held.settled is not None or is_open):  # by another call of its id
            return ChargeResult(charged=True, limit_results=self._peek(charge, now_us))
        if stored is None:
            result = self._charge(charge, now_us)
            if charge.request and (result.charged or charge.afterwards):  # no denial: a repeat may fit by then
                self._request_results[charge.request] = result._replace(hold=UNCHANGED)
            return result
        marks = held.marks if held is not None and is_open else ()
        if len(stored.limit_results) == len(charge.buckets) and marks in ((), _marks_of(charge.buckets)):
            return stored
        # It was evaluated with other buckets, before its policy changed: the same decision, and a peek at these ones.
        return stored._replace(limit_results=self._peek(charge, now_us))

    def _peek(self, charge: Charge, now_us: int) -> tuple[LimitResult, ...]:
        results = []
        for bucket, cost in zip(charge.buckets, charge.costs, strict=True):
            terms = self._terms(bucket)
            if terms.slots:
                results.append(self._slots_result(bucket, terms, now_us))
                continue
            state = advance(terms, self._states.get(bucket.name, State()), now_us).state
            needed = 1 if charge.afterwards and cost > 0 else cost
            results.append(limit_result(terms, state, wait_until_fits(terms, state, needed * MICRO, now_us), now_us))
        return tuple(results)

    def _taken_slots(self, bucket: Bucket, now_us: int) -> dict[int, int]:
        slots = self._slots.get(bucket.name, {})
        return {second: count for second, count in slots.items() if second * MICRO > now_us}

    def _slots_result(self, bucket: Bucket, terms: Terms, now_us: int, wait_us: int = 0) -> LimitResult:
        taken = self._taken_slots(bucket, now_us)
        remaining = max(terms.capacity - sum(taken.values()) * MICRO, 0)
        return LimitResult(remaining, wait_us, max(taken) * MICRO - now_us if taken else 0)

    def _take_slot(self, bucket: Bucket, terms: Terms, second: int, now_us: int) -> bool:
        """Take a slot that comes back with SECOND; 0 takes none. Returns whether it fits."""
        taken = self._taken_slots(bucket, now_us)
        if second and sum(taken.values()) * MICRO >= terms.capacity:
            return False
        if second:
            self._slots[bucket.name] = taken | {second: taken.get(second, 0) + 1}
        return True

    def _return_slot(self, bucket: Bucket, second: int, now_us: int) -> bool:
        """Return a slot that was to come back with SECOND. Returns whether there was one."""
        taken = self._taken_slots(bucket, now_us)
        if second not in taken:
            return False
        taken[second] -= 1
        self._slots[bucket.name] = {one: count for one, count in taken.items() if count}
        return True

    def _change(self, charge: Charge, change: Settle | Extend, now_us: int) -> ChargeResult:
        """Settle or extend a reservation."""
        found = self._reservations.get(change.name)
        if found is not None and found.settled is not None and isinstance(change, Settle):
            is_same = found.settled_marks in ((), _marks_of(charge.buckets))
            if is_same and len(found.settled.limit_results) == len(charge.buckets):
                return found.settled
            return found.settled._replace(limit_results=self._peek(charge, now_us))
        if found is None or found.settled is not None or found.ends <= now_us:
            peeks = self._peek(charge._replace(afterwards=False), now_us)
            return ChargeResult(charged=False, limit_results=peeks, held_us=GONE)
        if isinstance(change, Settle):
            result = self._settle(charge, change, found, now_us)
            marks = _marks_of(charge.buckets) if found.marks else ()
            self._reservations[change.name] = found._replace(settled=result, settled_marks=marks)
            return result._replace(hold=HoldChange(found.ends, 0))
        ends = max(found.ends, min(now_us + change.hold_us, found.made_at + MAX_HELD_US))
        second = max(found.second, second_of(ends, ends - now_us))
        untaken, foreign = found.taken_by(charge.buckets)
        for position, bucket in enumerate(charge.buckets):
            has_slot = position not in untaken and position not in foreign
            is_taken = has_slot and self._terms(bucket).slots and change.reserved[position]
            if is_taken and self._return_slot(bucket, found.second, now_us):
                taken = self._taken_slots(bucket, now_us)
                self._slots[bucket.name] = taken | {second: taken.get(second, 0) + 1}
        self._reservations[change.name] = found._replace(ends=ends, second=second)
        hold = HoldChange(found.ends, ends)
        return ChargeResult(charged=True, limit_results=self._peek(charge, now_us), held_us=ends - now_us, hold=hold)

    def _settle(self, charge: Charge, settle: Settle, found: Held, now_us: int) -> ChargeResult:
        results = []
        charged, clamped = True, 0
        untaken, foreign = found.taken_by(charge.buckets)
        for position, (bucket, change) in enumerate(zip(charge.buckets, charge.costs, strict=True)):
            terms, tokens, reserved = self._terms(bucket), change, settle.reserved[position]
            if position in foreign:
                tokens = reserved = 0
            if terms.slots:
                if reserved and position not in untaken:
                    self._return_slot(bucket, found.second, now_us)
                results.append(self._slots_result(bucket, terms, now_us))
                continue
            if position in untaken:
                tokens, reserved = tokens + reserved, 0
            state, stored = self._advanced(bucket, terms, tokens, now_us)
            if tokens < 0:
                amount = _undrained(terms, -tokens * MICRO, reserved * MICRO, found.made_at, state.at)
                if amount:
                    self._states[bucket.name] = _returned(terms, stored, amount, now_us)
                state, stored = self._advanced(bucket, terms, 0, now_us)
            cost = min(max(tokens, 0), max(terms.most - state.used, 0) // MICRO) * MICRO
            clamped = max(clamped, tokens - cost // MICRO)
            if cost:
                state = take(state, cost)
            wait = wait_until_fits(terms, state, MICRO, now_us)
            result = limit_result(terms, state, wait, now_us)
            if cost:
                self._keep(bucket, charged_state(terms, stored, state, cost), now_us + result.reset_us)
            charged = charged and not (wait and terms.enforced)
            results.append(result)
        return ChargeResult(charged, tuple(results), clamped)

    def _grant_or_return(self, charge: Charge, own: Grant | Return, now_us: int) -> ChargeResult:
        return self._grant(charge, own, now_us) if isinstance(own, Grant) else self._return(charge, own, now_us)

    def _grant(self, charge: Charge, grant: Grant, now_us: int) -> ChargeResult:
        """Take as many units as fit, unless there is a grant of this name."""
        peeks = self._peek(charge, now_us)
        if grant.name in self._grants:
            lent = self._grants[grant.name]
            if lent is None or lent.ends <= now_us or lent.call != grant.call:
                return ChargeResult(charged=False, limit_results=peeks, hold=Granted(0, 0, USED_UP))
            again = Granted(0, lent.units, lent.ends - now_us)
            return ChargeResult(charged=True, limit_results=peeks, hold=again)
        units, left_us = grant.wants, grant.ttl_us
        for bucket, tokens, peek in zip(charge.buckets, charge.costs, peeks, strict=True):
            terms = self._terms(bucket)
            if not terms.enforced:
                continue
            if peek.wait_us:
                return ChargeResult(charged=False, limit_results=peeks, hold=Granted(0, 0, 0))
            units = min(units, max(peek.remaining // (tokens * MICRO) // grant.share, 1))
            if terms.window is not None:
                left_us = min(left_us, span(terms.window, now_us)[1] - now_us)
        if left_us < MIN_GRANT_US:
            return ChargeResult(charged=False, limit_results=peeks, hold=Granted(0, 0, left_us))
        costs = tuple(units * tokens for tokens in charge.costs)
        charged, results, *_ = self._charge(charge._replace(costs=costs, reservation=None), now_us)
        taken = {
            bucket.name: tokens
            for bucket, tokens, result in zip(charge.buckets, charge.costs, results, strict=True)
            if tokens and not result.wait_us
        }
        after = {}
        for bucket, result in zip(charge.buckets, results, strict=True):
            if bucket.name in taken:
                state = self._states[bucket.name]
                state = self._states[bucket.name] = state._replace(refunded=state.refunded or 1)
                after[bucket.name] = (self._terms(bucket).capacity - result.remaining, state.refunded)
        self._grants[grant.name] = Lent(now_us, now_us + left_us, units, grant.call, taken, after)
        return ChargeResult(charged, results, hold=Granted(units, units, left_us))

    def _return(self, charge: Charge, own: Return, now_us: int) -> ChargeResult:
        """Return what was not used of a grant, once."""
        is_known, lent = own.name in self._grants, self._grants.get(own.name)
        self._grants[own.name] = None
        nothing = (0,) * len(charge.buckets)
        if lent is None:
            peeks = self._peek(charge, now_us)
            hold = Returned(0, nothing, again=is_known)
            return ChargeResult(is_known, peeks, held_us=0 if is_known else GONE, hold=hold)
        units = min(own.unused, lent.units)
        tokens = tuple(lent.tokens.get(bucket.name, 0) for bucket in charge.buckets)
        for bucket, each in zip(charge.buckets, tokens, strict=True):
            if units and each:
                terms = self._terms(bucket)
                state, stored = self._advanced(bucket, terms, -1, now_us)
                back, in_all = units * each * MICRO, lent.units * each * MICRO
                used, refunded = lent.after[bucket.name]
                if stored.refunded >= refunded:  # what was used before it drains first, unless it was refunded since
                    in_all = max(in_all, used - (stored.refunded - refunded))
                amount = _undrained(terms, back, in_all, lent.made_at, state.at)
                if amount:
                    self._states[bucket.name] = _returned(terms, stored, amount, now_us)
        hold = Returned(units, tokens, again=False, left_us=max(lent.ends - now_us, 0))
        return ChargeResult(charged=True, limit_results=self._peek(charge, now_us), hold=hold)

    def _charge_afterwards(self, charge: Charge, now_us: int) -> ChargeResult:
        results = []
        charged, clamped = True, 0
        for bucket, tokens in zip(charge.buckets, charge.costs, strict=True):
            terms = self._terms(bucket)
            if terms.slots:
                results.append(self._slots_result(bucket, terms, now_us))
                continue
            state, stored = self._advanced(bucket, terms, tokens, now_us)
            taken = min(tokens, max(terms.most - state.used, 0) // MICRO)
            clamped = max(clamped, tokens - taken)
            if taken:
                state = take(state, taken * MICRO)
            wait = wait_until_fits(terms, state, MICRO if tokens > 0 else tokens, now_us)
            result = limit_result(terms, state, wait, now_us)
            if taken:
                self._keep(bucket, charged_state(terms, stored, state, taken * MICRO), now_us + result.reset_us)
            charged = charged and not (wait and terms.enforced)
            results.append(result)
        return ChargeResult(charged, tuple(results), clamped)

    def _advanced(self, bucket: Bucket, terms: Terms, tokens: int, now_us: int) -> tuple[State, State]:
        """The state of a bucket now, and as it is kept; that is brought forward if it is about to be charged."""
        stored = self._states.get(bucket.name, State())
        state, clamped = advance(terms, stored, now_us)
        if clamped and tokens:
            keep = max(stored.keep - (stored.at - now_us), now_us)
            stored = self._states[bucket.name] = stored._replace(at=now_us, keep=keep)
        return state, stored

    def _keep(self, bucket: Bucket, state: State, until_us: int) -> None:
        self._states[bucket.name] = state._replace(keep=max(state.keep, min(until_us, EXACT - 1)))

    def _charge(self, charge: Charge, now_us: int) -> ChargeResult:  # noqa: C901  one pass over the buckets
        if charge.afterwards:
            return self._charge_afterwards(charge, now_us)
        before: dict[str, State] = {}
        results = []
        charged = True
        reserve = charge.reservation if isinstance(charge.reservation, Reserve) else None
        ends = 0 if reserve is None else min(now_us + reserve.hold_us, EXACT - 1)
        second = 0 if reserve is None else second_of(ends, reserve.hold_us)
        untaken: set[int] = set()
        slots: dict[str, dict[int, int]] = {}
        for position, (bucket, tokens) in enumerate(zip(charge.buckets, charge.costs, strict=True)):
            cost, terms = tokens * MICRO, self._terms(bucket)
            if terms.slots:
                slots.setdefault(bucket.name, self._slots.get(bucket.name, {}))
                fits = self._take_slot(bucket, terms, second if tokens > 0 else 0, now_us)
                if not fits:
                    untaken.add(position)
                charged = charged and (fits or not terms.enforced)
                results.append(self._slots_result(bucket, terms, now_us, 0 if fits else UNKNOWN_WAIT))
                continue
            state, stored = self._advanced(bucket, terms, tokens, now_us)
            wait = wait_until_fits(terms, state, cost, now_us)
            fits = wait == 0 and cost != 0
            if tokens > 0 and not fits:
                untaken.add(position)
            if fits:
                before.setdefault(bucket.name, stored)
                state = take(state, cost)
            elif wait and terms.enforced:
                charged = False
            result = limit_result(terms, state, wait, now_us)
            if fits:
                kept = charged_state(terms, stored, state, cost)
                self._keep(bucket, kept.refund(-cost) if cost < 0 else kept, now_us + result.reset_us)
            results.append(result)
        if charged and reserve is not None:
            marks = _marks_of(charge.buckets) if charge.request else ()
            self._reservations[reserve.name] = Held(now_us, ends, second, frozenset(untaken), marks=marks)
            return ChargeResult(charged, tuple(results), hold=HoldChange(0, ends))
        if charged:
            return ChargeResult(charged, tuple(results))
        self._states.update(before)
        self._slots.update(slots)
        peeks = self._peek(charge, now_us)
        return ChargeResult(
            charged,
            tuple(peek._replace(wait_us=result.wait_us) for peek, result in zip(peeks, results, strict=True)),
        )
