"""Settles and extends reservations."""

import asyncio
from contextlib import suppress
from time import monotonic
from typing import Final, NamedTuple

from ratelimit_service.decision.charge import GONE, Bucket, Charge, ChargeResult, Counted, Extend, Settle
from ratelimit_service.decision.denial_memory import DenialMemory
from ratelimit_service.decision.key_resolver import KeyResolver
from ratelimit_service.decision.limit import MAX_TOKENS, Concurrency, Counting, check_hold
from ratelimit_service.decision.lru import LruCache
from ratelimit_service.decision.outcome import refusal_of
from ratelimit_service.decision.policy import Policy
from ratelimit_service.decision.ports import BucketStore, QueueTimeout, StoreUnavailable
from ratelimit_service.decision.reservation import Named, Reservation, ReservationIds, unpack
from ratelimit_service.errors import InvalidArgument, LookupDeferred, NotFound, ServiceError, Unavailable

_LOOKUP_SECONDS: Final = 0.5
"""For which a settlement without a deadline waits for the limits in force."""

_MAX_READ: Final = 1_000
"""What ids say is kept read, of the latest: keys reserve from the same limits again and again.

Of up to twice as many, some 4 KiB each, and as much for a policy that has been evicted meanwhile.
"""


class Settlement(NamedTuple):
    """The buckets that a reservation took from, and the result of settling it."""

    buckets: tuple[Bucket, ...]
    result: ChargeResult


class _Part(NamedTuple):
    """What became of one bucket: it had the estimate and takes the change, or else it had HELD and takes `settled`."""

    is_cost: bool
    settled: int = 0
    held: int = 0


class _Kept(NamedTuple):
    """What ids say, with its parts, and the buckets by the POLICY of when it was used last."""

    reservation: Reservation
    parts: tuple[_Part, ...]
    policy: Policy | None
    buckets: tuple[Bucket, ...]


class Settlements:
    """Settles and extends the reservations of all servers. All its errors are ServiceErrors.

    By the limits that are in force, and by those of the reservation where these cannot be read. When an error is raised
    for a store that did not reply, the call can be repeated: it is made once.
    """

    def __init__(
        self, keys: KeyResolver, buckets: BucketStore, ids: ReservationIds, denials: DenialMemory | None = None
    ) -> None:
        """What is returned is forgotten in DENIALS; None: in none."""
        self._denials = DenialMemory() if denials is None else denials
        self._keys = keys
        self._buckets = buckets
        self._ids = ids
        self._ending: set[asyncio.Task[None]] = set()
        self._read: LruCache[bytes, _Kept] = LruCache(_MAX_READ)
        self.abandoned = 0
        """Reservations so far that were ended because their callers had left before they learned of them."""
        self.unknown = 0
        """Calls so far with an id that no server made."""

    def made(self, reservation_id: str) -> bool:
        """Whether a server made this id; its reservation may have ended."""
        try:
            self._ids.read(reservation_id)
        except ValueError:
            return False
        return True

    async def settle(self, reservation_id: str, actual: int | None, deadline: float | None = None) -> Settlement:
        """Let the ACTUAL cost, 0 to MAX_TOKENS, take the place of the estimate; None: the estimate stays.

        Raises InvalidArgument, NotFound (RESERVATION_NOT_FOUND), Unavailable, Overloaded and DeadlineExceeded.
        """
        if actual is not None and not 0 <= actual <= MAX_TOKENS:
            raise InvalidArgument.of("actual_cost", f"is {actual}; it must be between 0 and {MAX_TOKENS}")
        named, kept = self._find(reservation_id)
        estimate = named.estimate
        change = 0 if actual is None else actual - estimate
        (key_id, before, series), parts, _, _ = kept
        policy = await self._policy(key_id, deadline)
        if policy is not kept.policy:
            kept = kept._replace(policy=policy, buckets=_in_force(before, policy))
            self._read.put(named.packed, kept)
        buckets = kept.buckets
        costs = tuple([change if part.is_cost else part.settled for part in parts])
        reserved = tuple([estimate if part.is_cost else part.held for part in parts])
        counted = (Counted(series, change, 0),) if actual is not None else ()
        settle = Settle(named.name, reserved)
        result = await self._charge(Charge(buckets, costs, "", counted, reservation=settle), deadline)
        if min(costs, default=0) < 0:  # at once for this worker's calls; others hear of it
            self._denials.forget([bucket.name for bucket in buckets])
        return Settlement(buckets, result)

    def abandon(self, reservation_id: str) -> None:
        """End a reservation whose caller has left before it learned of it: in the background, at its estimate.

        If that fails, its hold ends by itself.
        """
        self.abandoned += 1
        task = asyncio.ensure_future(self._end(reservation_id))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, reservation_id: str) -> None:
        with suppress(ServiceError):
            await self.settle(reservation_id, None)

    async def extend(self, reservation_id: str, hold_us: int, deadline: float | None = None) -> int:
        """Hold a reservation for HOLD_US from now on, at least. Returns the microseconds for which it is held.

        Raises what `settle` does.
        """
        check_hold("hold", hold_us)
        (name, estimate, _), ((_, buckets, _), *_) = self._find(reservation_id)
        reserved = tuple(bucket.limit.reserved_of(estimate) for bucket in buckets)
        extend = Extend(name, reserved, hold_us)
        return (await self._charge(Charge(buckets, (0,) * len(buckets), reservation=extend), deadline)).held_us

    def _find(self, reservation_id: str) -> tuple[Named, _Kept]:
        if not reservation_id:
            raise InvalidArgument.of("reservation_id", "is empty; send that of the response to the reservation")
        try:
            named = self._ids.read(reservation_id)
            kept = self._read.get(named.packed)
            if kept is None:
                reservation = unpack(named.packed)
                parts = tuple(map(_part, reservation.buckets))
                kept = _Kept(reservation, parts, None, reservation.buckets)
                self._read.put(named.packed, kept)
        except ValueError:
            self.unknown += 1
            raise _not_found() from None
        return named, kept

    async def _policy(self, key_id: str, deadline: float | None) -> Policy | None:
        """The policy in force of a key, if there is one and it is read in half of the time."""
        now = monotonic()
        half = now + _LOOKUP_SECONDS if deadline is None else now + (deadline - now) / 2
        try:
            return await self._keys.resolve_id(key_id, half)
        except (ServiceError, LookupDeferred):
            return None

    async def _charge(self, charge: Charge, deadline: float | None) -> ChargeResult:
        try:
            (result,) = await self._buckets.charge((charge,), deadline)
        except QueueTimeout as error:
            raise refusal_of(error) from error
        except StoreUnavailable as error:
            raise Unavailable(str(error), reason="BUCKET_STORE_UNAVAILABLE") from error
        if result.held_us == GONE:
            raise _not_found()
        return result


def _part(bucket: Bucket) -> _Part:
    if isinstance(bucket.limit.algorithm, Concurrency):
        return _Part(is_cost=False, settled=-1, held=1)  # its slot comes back
    return _Part(is_cost=bucket.limit.counts is Counting.COST)  # a call that was counted stays counted


def _in_force(before: tuple[Bucket, ...], policy: Policy | None) -> tuple[Bucket, ...]:
    """The buckets of a reservation, each with its limit as it is in force, where that is known."""
    current = {} if policy is None else {rule.bucket.name: rule.bucket for rule in policy.rules}
    return tuple([_same_kind(current.get(bucket.name, bucket), bucket) for bucket in before])


def _same_kind(now: Bucket, before: Bucket) -> Bucket:
    """The bucket as it is NOW, unless it holds slots in place of tokens, or the other way round."""
    kinds = {isinstance(bucket.limit.algorithm, Concurrency) for bucket in (now, before)}
    return now if len(kinds) == 1 else before


def _not_found() -> NotFound:
    return NotFound(
        "there is no open reservation of this id: its hold has ended, it was settled a while ago, or the store has "
        "lost it; its estimate stays charged",
        reason="RESERVATION_NOT_FOUND",
    )
