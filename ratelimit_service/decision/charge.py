"""A charge to a bucket store, and its result."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

from ratelimit_service.decision.limit import MICRO, Limit
from ratelimit_service.decision.usage import Series

MAX_BUCKETS = 512
"""Buckets of one charge: 128 descriptors with 4 limits each, or 32 with 16. Redis needs some 4 ms for as many.

One script with more would hold Redis for long enough that the charges of others time out.
"""

NEVER = -1
"""In place of a wait: no wait would help, because the cost is more than the limit ever holds."""

NO_ROOM = -2
"""In place of a wait: the store has no memory for a new bucket, which this would be: the charge is denied."""

UNKNOWN_WAIT = -3
"""In place of a wait: all slots of a concurrency limit are taken, and nobody knows when one comes back."""

GONE = -1
"""In place of a time for which a reservation is held: there is none of this name, or none any more."""

MAX_HELD_US = 86_400 * MICRO
"""From when a reservation is made until its last hold ends, at most."""

MAX_RESERVED = 256
"""Buckets of a charge that reserves."""

MAX_FAMILY = 2**32 - 1


@dataclass(slots=True, eq=False)
class Bucket:
    """A limit together with the name under which the store keeps its state.

    `family` is 0 if only administrators make more buckets like this one. Where callers do, since they choose a value of
    which each has a bucket, it is a number from 1 to MAX_FAMILY that all buckets of that limit have. When the store
    runs out of memory, it is those that it takes no more of.

    `partition` determines which buckets a store must keep together (all of one subject have the same one), so that a
    charge of several is atomic. Made once per policy and shared by all its charges, so a store caches in `encoded` how
    it writes the bucket down, which depends on nothing else, in `terms` the same of its limit, which it has in common
    with other buckets, and in `level` what it saw of it.
    """

    name: str
    partition: int
    limit: Limit
    family: int = 0
    encoded: Any = field(default=None, init=False, repr=False)
    terms: Any = field(default=None, init=False, repr=False)
    level: Any = field(default=None, init=False, repr=False)


def costs_of(buckets: Sequence[Bucket], cost: int) -> tuple[int, ...]:
    """What a call of this COST takes from each of its buckets, in tokens: its cost, or 1 where calls are counted."""
    if cost in {0, 1}:  # nearly all calls
        return (cost,) * len(buckets)
    return tuple([bucket.limit.tokens_of(cost) for bucket in buckets])


REPORTED: Final = -1
"""In place of the calls that a charge counts for a series: its counts were reported by the holder of a grant."""


class Counted(NamedTuple):
    """That a charge counts for a series: as a call (`calls` 1) unless it only refunds (0), with so many tokens.

    `positions` are the indexes of the charge's buckets by which its denials are counted: one for each limit of the
    series, in their order, perhaps repeated for a series that takes from several buckets by the same limits. None: all
    the charge's buckets, in their order.

    With `calls` REPORTED the `positions` are counts instead, in the order of `usage.Counts`, flattened: what the holder
    of a grant reports when it returns it.
    """

    series: Series
    cost: int
    calls: int = 1
    positions: tuple[int, ...] | None = None


class Reserve(NamedTuple):
    """Keep what a charge takes as a reservation, so that it can be settled: for HOLD_US microseconds, unless extended.

    `name`: 16 bytes that nobody can guess.
    """

    name: bytes
    hold_us: int


class Settle(NamedTuple):
    """Let the costs of a charge take the place of what was reserved under NAME.

    `reserved[i]` tokens were, from `buckets[i]`, and `costs[i]` are what the bucket is to take beside them. What is
    positive is charged afterwards; what is negative is returned, but of it no more than has not drained since the
    reservation was made, and to a quota nothing once its window is over. Settled again, it gets the same result.

    A reservation with a request may be repeated with other buckets, once its policy has changed. Of these only those
    that it was made with take part; the others are left as they are.
    """

    name: bytes
    reserved: tuple[int, ...]


class Extend(NamedTuple):
    """Hold what was reserved under NAME for HOLD_US microseconds from now on, at least; all costs are 0.

    Until MAX_HELD_US after it was made, at most.
    """

    name: bytes
    reserved: tuple[int, ...]
    hold_us: int


MIN_GRANT_US: Final = 10_000
"""Microseconds that a grant lasts at least: a shorter one would be over before it reaches its holder."""

USED_UP: Final = -1
"""In place of the time that a grant lasts: there was one of this name, which ended, was returned, or was another."""


class Grant(NamedTuple):
    """Take as many units as fit, WANTS at most, for a holder that spends them by itself: a unit takes `costs`.

    Of the units that each enforced bucket has left at most one in SHARE, but one at least. They may be spent for TTL_US
    microseconds, and not after the window of an enforced quota. `name`: 16 bytes, by which the same again gets the same
    units as long as they may be spent, and by which it is returned. `call` is a number below 2^53 that the same call
    has again, and nearly no other.
    """

    name: bytes
    ttl_us: int
    wants: int
    share: int
    call: int


class Return(NamedTuple):
    """Return UNUSED units of the grant of this NAME, or all if they are fewer, to the buckets that it took from.

    As `Settle` returns what was reserved. All costs are 0. Its name can be granted no more, also if there was no grant.
    """

    name: bytes
    unused: int


HoldAction: TypeAlias = Reserve | Settle | Extend | Grant | Return
"""What a charge does to a reservation or a grant."""


class HoldChange(NamedTuple):
    """When the hold of a reservation ended before a charge, and when it ends after it: microseconds since 1970 UTC.

    By the store's clock. 0: the reservation was not open, or is not any more. Both are 0 if the charge has changed
    nothing, as when it is a repeat.
    """

    before: int
    after: int


UNCHANGED: Final = HoldChange(0, 0)
"""That of a charge that has nothing to do with a reservation, too."""


class Granted(NamedTuple):
    """What a Grant got: so many UNITS, for LEFT_US microseconds from now on. `taken` of them by this charge.

    `taken` is 0 if they were taken before, by the same grant. Without units, LEFT_US is USED_UP, NO_ROOM if the store
    has no memory for a grant, the time until the window of a quota ends if that is less than MIN_GRANT_US, and else 0.
    """

    taken: int
    units: int
    left_us: int


class Returned(NamedTuple):
    """What a Return returned: so many UNITS, of which each had taken `tokens[i]` from `buckets[i]`.

    `again`: the grant had been returned before, and nothing has changed. `left_us`: the microseconds for which it would
    have lasted still, 0 if it had ended, or there was none.
    """

    units: int
    tokens: tuple[int, ...]
    again: bool
    left_us: int = 0


class Charge(NamedTuple):
    """Take `costs[i]` tokens from `buckets[i]`, at most MAX_BUCKETS, for all of them or for none.

    A cost of 0 is a peek and always fits. A negative cost refunds tokens, at most up to an untouched bucket, and always
    fits. Costs are whole tokens between -MAX_TOKENS and MAX_TOKENS + 1, which never fits. `request` is empty, or the
    name under which the store keeps the result of a charge that was made, so that the same again within the store's
    window gets the same result and charges nothing. One that was denied is decided anew.

    `counted` is what the store counts, in the same atomic step, when it makes or denies the charge: each series once.
    Not when it recalls the result of a request. Empty for peeks, and for charges that their caller counts.

    `afterwards`: the cost was incurred already. Each bucket takes of it what its limit has, the overdraft included, in
    whole tokens, whatever the others have; what is above that is not recorded, and counted as clamped.

    `reservation`: what the charge does to a reservation, None for an ordinary one. All its buckets are in one
    partition, at most MAX_RESERVED. Only by one that reserves are slots of concurrency limits taken, and they come back
    when it is settled or its hold ends. A grant, and what returns one, has no such limits, and no request.
    """

    buckets: tuple[Bucket, ...]
    costs: tuple[int, ...]
    request: str = ""
    counted: tuple[Counted, ...] = ()
    afterwards: bool = False
    reservation: HoldAction | None = None


class LimitResult(NamedTuple):
    """The result of a charge for one bucket.

    `remaining`: micro-tokens left after the charge, negative only for a limit with an overdraft. `wait_us`:
    microseconds until the cost fits, if nothing else is charged before: 0 when it fits, NEVER when it never will,
    NO_ROOM when the store has none for it, UNKNOWN_WAIT when a slot has to come back. Of a peek at a limit with an
    overdraft, and of a charge made afterwards, until one token is left. `reset_us`: microseconds until the bucket is
    untouched again, 0 when it is now.
    """

    remaining: int
    wait_us: int
    reset_us: int


class ChargeResult(NamedTuple):
    """Whether the charge was made, and the result for each of its buckets, in the charge's order.

    Of a charge made afterwards: whether each enforced limit has a token left. `clamped` is the most tokens of it that
    one of its limits did not record. So is that of a charge that settles.

    `held_us`: of a charge that settles or extends, the microseconds for which the reservation is held from now on: 0
    once it is settled, GONE if there is none; then nothing was charged. `hold`: what the charge has done to a
    reservation or grant.

    Of a Grant: whether it has units. The results are those after it, or, without units, of a peek at one. Of a Return:
    whether there was a grant, now or before; `held_us` is GONE if not. The results are those after it.
    """

    charged: bool
    limit_results: tuple[LimitResult, ...]
    clamped: int = 0
    held_us: int = 0
    hold: HoldChange | Granted | Returned = UNCHANGED


class Exhausted(ChargeResult):
    """The result of a denial that only time ends: each of its waits is over when it says, and not before.

    Unless something is returned to one of the buckets that wait, which the store announces.
    """

    __slots__ = ()
