"""How the rate of a limit is shared among those who apply their part of it by themselves.

The store keeps, for all servers together, who holds which part of a pool until when: `lua/shares.lua` is the same as
`visit` here, which tests compare with it. Nobody is given what others still hold, so that the parts never exceed the
whole: who has too much gives it up at the next visit of its server, and only then is it given to others.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from math import floor
from typing import Final, NamedTuple, Protocol

from ratelimit_service.decision.limit import MICRO

TTL_US: Final = 15 * MICRO
"""Microseconds for which a holder has a share that has changed. One that has not may be held for longer."""

SLACK_US: Final = 2 * MICRO
"""For so much longer the store keeps it from others: it is on its way to its holder meanwhile."""

ORPHAN_US: Final = 8 * MICRO
"""For which the share of a holder that has left is kept, unless it ends before. An Envoy whose stream was cut opens
another one within 5 seconds, and has applied its share all the time."""

QUIET_US: Final = 6 * MICRO
"""For which nothing is given after a store was found that has lost what was held: all holders come within 5 seconds."""

MAX_HOLDERS: Final = 500
"""Of one pool. More get nothing."""

PROBE: Final = 0.05
"""Of a pool, what is shared equally whatever the demand: by it a holder without any notices that it has some."""

UNKNOWN: Final = -1
"""In place of a demand. Such a holder gets an equal share."""

ALL: Final = 1_000
"""In place of a `keep` below it: nothing is given up."""

_LEFT: Final = -2  # in place of the demand of a holder that has left
_STEP, _SCARCE_STEP = 0.1, 0.01  # of a share: what changes by less is left as it is
_WHOLE: Final = 0.9  # of its share, what a holder gets at least that has one from before
_RECOVERY: Final = 0.05  # of a pool, by what its bound rises in a second after it was lowered


class Kind(IntEnum):
    """What a server says of one of its holders."""

    NEW = 0
    """It has no share, as far as its server knows. One that the store has of it is sent again."""
    CARRIED = 1
    """The same, as far as is known: it may have one that its server of before gave it."""
    KEPT = 2
    """It has one, or none since there was none."""
    LEFT = 3
    """Its stream was cut: it may apply its share until that ends."""
    GONE = 4
    """It applies its share no more."""


class Bid(NamedTuple):
    """What a server says of one of its holders.

    `holder`: 8 bytes that no other has. `demand`: units that it would spend in an interval, or UNKNOWN. `units` and
    `burst` are what it holds now, as far as its server knows. `renew_us`: for how many microseconds it is to hold that
    if it stays as it is; 0: until when it does already.
    """

    holder: bytes
    kind: Kind
    demand: int = UNKNOWN
    units: int = 0
    burst: int = 0
    renew_us: int = 0


class Visit(NamedTuple):
    """What a server says of its holders of one pool.

    `name` and `partition` are those of a bucket. `units`: what all holders together may spend in an interval, whose
    length is the caller's. `burst`: what they may spend at once, beside that; of it each gets `least`, 0 or 1, even if
    that is more in all. `keep`: thousandths of the units that may be given out on, since others spend the rest; ALL:
    there is no need to lower them.
    """

    name: str
    partition: int
    units: int
    burst: int
    least: int
    bids: Sequence[Bid]
    keep: int = ALL


class Share(NamedTuple):
    """What a holder has: so many UNITS an interval, and at once BURST.

    `ttl_us`: for how many microseconds from now on; 0: until when it did, since it has neither changed nor was it
    renewed. `short`: whether it is to have more, once others have given it up; without units it then has none yet.
    """

    units: int
    burst: int
    ttl_us: int
    short: bool


NO_SHARE: Final = Share(0, 0, 0, short=False)


class Visited(NamedTuple):
    """What became of a visit: a share for each bid, in their order.

    `holders`: how many the pool has. `others_due`: whether servers of others should come, since these hold too much, or
    are to have more of what a holder here has just given up.
    """

    holders: int
    others_due: bool
    shares: Sequence[Share]


class Position(NamedTuple):
    """Up to where announcements were read: so many of those of a SECOND since 1970 UTC, by the store's clock."""

    second: int = 0
    read: int = 0


class Announced(NamedTuple):
    """Pools whose holders should give something up, in order, perhaps repeatedly, and where to read on."""

    names: Sequence[bytes]
    position: Position


class ShareStore(Protocol):
    """Keeps what is held of pools, for all servers."""

    async def visit(self, visits: Sequence[Visit]) -> Sequence[Visited]:
        """Make these visits, each of another pool and atomic. Raises StoreUnavailable; perhaps some were made."""
        ...

    async def announce(self, names: Collection[bytes]) -> None:
        """Tell all servers that holders of these pools should give something up. Raises StoreUnavailable."""
        ...

    async def announced(self, position: Position) -> Announced:
        """What was announced after POSITION, and within the last seconds. Raises StoreUnavailable."""
        ...


@dataclass(slots=True)
class _Held:
    demand: int
    units: int
    burst: int
    until_us: int


@dataclass(slots=True)
class PoolState:
    """What a store keeps of a pool: who holds what of it, in the order in which they came.

    `bound`: units that were given out at most from `bound_us` on, since others spend of the same limit; 0: all. Nothing
    is given before `quiet_us`.
    """

    bound: int = 0
    bound_us: int = 0
    quiet_us: int = 0
    held: dict[bytes, _Held] = field(default_factory=dict)

    @property
    def holders(self) -> int:
        """Those that are here still."""
        return sum(each.demand != _LEFT for each in self.held.values())


class _Targets:
    """What each holder is to have.

    One unit at least, if there are as many: with none Envoy denies all, and then begins with a bucket that is full. So
    whoever was lowered to nothing again and again would get its burst each time.
    """

    def __init__(self, state: PoolState, units: int, burst: int, least: int) -> None:
        known = [each.demand for each in state.held.values() if each.demand >= 0]
        self.holders = state.holders
        self._equal = units / max(self.holders, 1)
        known_units = self._equal * len(known)
        self._count = max(len(known), 1)
        self._base = max(PROBE * known_units / self._count, 1 if known_units >= len(known) else 0)
        self._rest = known_units - self._base * len(known)
        self._demand = sum(known)
        self.scarce = self._demand > self._rest
        self.burst = max(burst // max(self.holders, 1), least)

    def units(self, demand: int) -> int:
        """Those of a holder with this DEMAND."""
        if demand < 0:
            return floor(self._equal)
        if self.scarce:
            return floor(self._base + self._rest * demand / self._demand)
        return floor(self._base + demand + (self._rest - self._demand) / self._count)


def visit(state: PoolState | None, made: Visit, now_us: int) -> tuple[PoolState, Visited]:
    """Make a visit at NOW_US. STATE is what is kept of the pool, None if that is nothing."""
    lost = state is None
    state = state or PoolState()
    state.held = {holder: each for holder, each in state.held.items() if each.until_us > now_us}
    new = _take_bids(state, made, now_us, lost=lost)
    units = _bounded(state, made, now_us)
    sharing = _Sharing(state, made, units, new)
    sharing.lower()
    sharing.give(nothing=state.quiet_us > now_us)
    return state, Visited(sharing.targets.holders, sharing.others_due, sharing.shares(now_us))


class _Sharing:
    """One visit: what holders of its bids give up, and what they get of what is left."""

    def __init__(self, state: PoolState, made: Visit, units: int, new: Collection[int]) -> None:
        """NEW are the positions of bids whose holders had nothing."""
        self._held = state.held
        self._made = made
        self.targets = _Targets(state, units, made.burst, made.least)
        self._step = _SCARCE_STEP if self.targets.scarce else _STEP
        self._rest = units - sum(each.units for each in state.held.values())
        self._burst_rest = made.burst - sum(each.burst for each in state.held.values())
        bids = [(index, bid, state.held[bid.holder]) for index, bid in enumerate(made.bids) if bid.holder in state.held]
        self._own = [(index, bid, each) for index, bid, each in bids if each.demand != _LEFT]
        self._changed = {*new, *(index for index, bid, _ in self._own if bid.kind is not Kind.KEPT)}
        self._short: set[int] = set()
        self._gave_up = False

    def lower(self) -> None:
        """Have holders give up what they have too much."""
        for index, _, each in self._own:
            target = self.targets.units(each.demand)
            if each.units > target and (self._rest < 0 or each.units > target * (1 + self._step)):
                self._rest += each.units - target
                each.units = target
                self._gave_up = True
                self._changed.add(index)
            if each.burst > self.targets.burst:
                self._burst_rest += each.burst - self.targets.burst
                each.burst = self.targets.burst
                self._changed.add(index)

    def give(self, *, nothing: bool) -> None:
        """Give holders what they are to have, or as much of it as there is; with NOTHING, note that they are short."""
        for index, bid, each in self._own:
            target = self.targets.units(each.demand)
            if each.units < target and (not each.units or each.units < target * (1 - self._step)):
                more = 0 if nothing else min(target - each.units, max(self._rest, 0))
                if bid.kind is Kind.CARRIED and not each.units and more < target * _WHOLE:
                    self._short.add(index)
                    continue
                if more:
                    self._rest -= more
                    each.units += more
                    self._changed.add(index)
                if each.units < target * (1 - self._step):
                    self._short.add(index)
            self._give_burst(index, each, nothing=nothing)

    def shares(self, now_us: int) -> Sequence[Share]:
        """What the holders of all bids have now."""
        shares = [NO_SHARE] * len(self._made.bids)
        for index, bid, each in self._own:
            ttl_us = TTL_US if index in self._changed else bid.renew_us
            if index in self._short and not each.units:
                ttl_us = 0
            if ttl_us:
                each.until_us = max(each.until_us, now_us + ttl_us + SLACK_US)
            shares[index] = Share(each.units, each.burst, ttl_us, index in self._short)
        return shares

    @property
    def others_due(self) -> bool:
        """Whether others have too much that is needed, or much too little of what was given up here.

        Those without a share come by themselves.
        """
        needed = bool(self._short) or self._rest < 0
        spare = self._gave_up and self._rest > 0
        if not (needed or spare):
            return False
        mine = {bid.holder for bid in self._made.bids}
        tolerance = 0 if self._rest < 0 else self._step
        for holder, each in self._held.items():
            if holder in mine or each.demand == _LEFT:
                continue
            target = self.targets.units(each.demand)
            if needed and (each.units > target * (1 + tolerance) or each.burst > self.targets.burst):
                return True
            if spare and 0 < each.units < target * (1 - _STEP):
                return True
        return False

    def _give_burst(self, index: int, each: _Held, *, nothing: bool) -> None:
        target = self.targets.burst
        if each.burst < target and (not each.burst or each.burst < target * (1 - _STEP)):
            more = max(min(target - each.burst, max(self._burst_rest, 0)), self._made.least - each.burst)
            if more > 0 and not nothing:
                self._burst_rest -= more
                each.burst += more
                self._changed.add(index)
            if each.burst < target * (1 - _STEP):
                self._short.add(index)


def _bounded(state: PoolState, made: Visit, now_us: int) -> int:
    """The units that are given out: all, or fewer while others spend of the same limit, but one for each holder."""
    units = made.units
    if state.bound:
        recovered = state.bound + units * _RECOVERY * max(now_us - state.bound_us, 0) / MICRO
        if recovered < units:
            units = floor(recovered)
        else:
            state.bound = 0
    if made.keep < ALL:
        units = units * made.keep // ALL
        state.bound, state.bound_us = max(units, 1), now_us
    return max(units, min(state.holders, made.units))


def _take_bids(state: PoolState, made: Visit, now_us: int, *, lost: bool) -> list[int]:
    """Note what is known of holders. Returns the positions of those that were not held here."""
    held = state.held
    new = []
    for index, (holder, kind, demand, units, burst, _) in enumerate(made.bids):
        each = held.get(holder)
        if kind is Kind.GONE:
            held.pop(holder, None)
        elif kind is Kind.LEFT:
            if each is None and units:
                each = held[holder] = _Held(_LEFT, units, burst, now_us + ORPHAN_US)
            if each is not None:
                each.demand, each.until_us = _LEFT, min(each.until_us, now_us + ORPHAN_US)
        elif each is not None:
            each.demand = demand
        elif len(held) < MAX_HOLDERS:
            each = held[holder] = _Held(demand, units, burst, now_us + TTL_US + SLACK_US)
            new.append(index)
            orphan = next((one for one, other in held.items() if other.demand == _LEFT), None)
            if kind is Kind.CARRIED and orphan is not None:
                before = held.pop(orphan)
                each.units, each.burst = before.units, before.burst
            elif units and lost:
                state.quiet_us = now_us + QUIET_US
    return new
