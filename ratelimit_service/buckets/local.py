"""The bucket store of this process alone, which stands in while the real one cannot be asked."""

from collections.abc import Callable, Sequence

from ratelimit_service.buckets.expiring import Expiring
from ratelimit_service.buckets.reference import ReferenceBuckets, State, Terms
from ratelimit_service.decision.charge import Bucket, Charge, Outcome
from ratelimit_service.decision.limit import MICRO

MOST_STATES = 100_000
"""Buckets and outcomes that are kept, about 200 bytes each. The ones charged longest ago are forgotten first."""

# A bucket idle for longer than the longest window starts anew anyway.
_STATE_AGE_US = 366 * 86_400 * MICRO


class LocalBucketStore:
    """Buckets in memory, each with its limit divided by the number of live servers, but never less than one token.

    So that all servers together allow about what the limit says. `share()` is that number, at least 1, asked at each
    call. `now_us()` is the time in microseconds since 1970 UTC. `request_window` is in seconds.
    """

    def __init__(
        self,
        share: Callable[[], int],
        now_us: Callable[[], int],
        *,
        request_window: float = 30.0,
        size: int = MOST_STATES,
    ) -> None:
        self._share = share
        self._now_us = now_us
        states: Expiring[str, State] = Expiring(size, _STATE_AGE_US, now_us)
        outcomes: Expiring[str, Outcome] = Expiring(size, round(request_window * MICRO), now_us)
        self._buckets = ReferenceBuckets(states, outcomes, self._terms)

    async def charge(self, charges: Sequence[Charge]) -> Sequence[Outcome]:
        """Make each charge or none of it, in this order. Always succeeds."""
        return self._buckets.charge(charges, self._now_us())

    def _terms(self, bucket: Bucket) -> Terms:
        return Terms.of(bucket.limit, max(self._share(), 1))
