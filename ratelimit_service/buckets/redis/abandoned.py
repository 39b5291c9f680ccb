"""Ends reservations that were made although their callers got no result, so that nobody will ever settle them."""

from ratelimit_service.decision.charge import Charge, ChargeResult, Reserve, Settle
from ratelimit_service.decision.limit import Concurrency, Counting


def end_of(charge: Charge, result: ChargeResult) -> Charge | None:
    """The charge that ends what CHARGE has reserved: its estimate stays charged, and its slots come back.

    None if it has reserved nothing, or its caller can get the same reservation by repeating the request.
    """
    if not isinstance(charge.reservation, Reserve) or charge.request or not result.charged:
        return None
    costs, reserved = [], []
    for bucket, cost in zip(charge.buckets, charge.costs, strict=True):
        takes_slots = isinstance(bucket.limit.algorithm, Concurrency)
        costs.append(-cost if takes_slots else 0)
        reserved.append(cost if takes_slots or bucket.limit.counts is Counting.COST else 0)
    return Charge(charge.buckets, tuple(costs), reservation=Settle(charge.reservation.name, tuple(reserved)))
