"""Settles and extends reservations."""

from typing import Final, NamedTuple

from ratelimit_service.decision.charge import GONE, Charge, ChargeResult, Counted, Extend, Settle
from ratelimit_service.decision.limit import MAX_TOKENS, Concurrency, Counting, Limit, check_hold
from ratelimit_service.decision.lru import LruCache
from ratelimit_service.decision.outcome import refusal_of
from ratelimit_service.decision.ports import BucketStore, QueueTimeout, StoreUnavailable
from ratelimit_service.decision.reservation import Reservation, ReservationIds, unpack
from ratelimit_service.errors import InvalidArgument, NotFound, Unavailable

_MAX_READ: Final = 10_000
"""What ids say is kept read, of the latest: keys make reservations of the same limits and estimates again and again."""


class Settlement(NamedTuple):
    """What a reservation took from, and the result of settling it."""

    reservation: Reservation
    result: ChargeResult


class Settlements:
    """Settles and extends the reservations of all servers. All its errors are ServiceErrors.

    When one is raised for a store that did not reply, the call can be repeated: it is made once.
    """

    def __init__(self, buckets: BucketStore, ids: ReservationIds) -> None:
        self._buckets = buckets
        self._ids = ids
        self._read: LruCache[bytes, Reservation] = LruCache(_MAX_READ)
        self.settled = 0
        """Reservations so far, repeats included."""
        self.extended = 0
        self.gone = 0
        """Calls so far whose reservation was not there any more, or never."""
        self.clamped = 0
        """Tokens so far that were above the overdraft of a limit."""

    async def settle(self, reservation_id: str, actual: int, deadline: float | None = None) -> Settlement:
        """Let the ACTUAL cost, 0 to MAX_TOKENS, take the place of the estimate.

        Raises InvalidArgument, NotFound (RESERVATION_NOT_FOUND), Unavailable, Overloaded and DeadlineExceeded.
        """
        if not 0 <= actual <= MAX_TOKENS:
            raise InvalidArgument.of("actual_cost", f"is {actual}; it must be between 0 and {MAX_TOKENS}")
        name, reservation = self._find(reservation_id)
        buckets, reserved, estimate, series = reservation
        costs = tuple(_change(bucket.limit, actual, tokens) for bucket, tokens in zip(buckets, reserved, strict=True))
        change = actual - estimate
        counted = (Counted(series, change, 0, tuple(range(len(buckets)))),) if change else ()
        result = await self._charge(Charge(buckets, costs, "", counted, reservation=Settle(name, reserved)), deadline)
        self.settled += 1
        self.clamped += result.clamped
        return Settlement(reservation, result)

    async def extend(self, reservation_id: str, hold_us: int, deadline: float | None = None) -> int:
        """Hold a reservation for HOLD_US from now on, at least. Returns the microseconds for which it is held.

        Raises what `settle` does.
        """
        check_hold("hold", hold_us)
        name, (buckets, reserved, _, _) = self._find(reservation_id)
        extend = Extend(name, reserved, hold_us)
        result = await self._charge(Charge(buckets, (0,) * len(buckets), reservation=extend), deadline)
        self.extended += 1
        return result.held_us

    def _find(self, reservation_id: str) -> tuple[bytes, Reservation]:
        if not reservation_id:
            raise InvalidArgument.of("reservation_id", "is empty; send that of the response to the reservation")
        try:
            name, packed = self._ids.read(reservation_id)
            reservation = self._read.get(packed)
            if reservation is None:
                reservation = unpack(packed)
                self._read.put(packed, reservation)
        except ValueError:
            self.gone += 1
            raise _not_found() from None
        return name, reservation

    async def _charge(self, charge: Charge, deadline: float | None) -> ChargeResult:
        try:
            (result,) = await self._buckets.charge((charge,), deadline)
        except QueueTimeout as error:
            raise refusal_of(error) from error
        except StoreUnavailable as error:
            raise Unavailable(str(error), reason="BUCKET_STORE_UNAVAILABLE") from error
        if result.held_us == GONE:
            self.gone += 1
            raise _not_found()
        return result


def _change(limit: Limit, actual: int, reserved: int) -> int:
    """What a settled call takes beside what was reserved. A slot comes back; a call that was counted stays counted."""
    if isinstance(limit.algorithm, Concurrency):
        return -reserved
    return actual - reserved if limit.counts is Counting.COST else 0


def _not_found() -> NotFound:
    return NotFound(
        "there is no open reservation of this id: its hold has ended, it was settled a while ago, or the store has "
        "lost it; its estimate stays charged",
        reason="RESERVATION_NOT_FOUND",
    )
