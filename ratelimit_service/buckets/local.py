"""The bucket store of this process alone, which stands in while the real one cannot be asked."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Generic, TypeVar

from ratelimit_service.buckets.reference import ReferenceBuckets, State, Terms
from ratelimit_service.decision.charge import Bucket, Charge, ChargeResult
from ratelimit_service.decision.limit import MICRO

_K = TypeVar("_K")
_V = TypeVar("_V")


class Expiring(MutableMapping[_K, _V], Generic[_K, _V]):
    """Keeps at most `size` entries, those written last, each for at most `age_us` microseconds since it was written."""

    def __init__(self, size: int, age_us: int, now_us: Callable[[], int]) -> None:
        self._size = size
        self._age_us = age_us
        self._now_us = now_us
        self._entries: OrderedDict[_K, tuple[int, _V]] = OrderedDict()

    def __getitem__(self, key: _K) -> _V:
        written, value = self._entries[key]
        if self._now_us() - written >= self._age_us:
            del self._entries[key]
            raise KeyError(key)
        return value

    def __setitem__(self, key: _K, value: _V) -> None:
        self._entries[key] = (self._now_us(), value)
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def __delitem__(self, key: _K) -> None:
        del self._entries[key]

    def __iter__(self) -> Iterator[_K]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


MAX_STATES = 100_000
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
        size: int = MAX_STATES,
    ) -> None:
        self._share = share
        self._now_us = now_us
        states: Expiring[str, State] = Expiring(size, _STATE_AGE_US, now_us)
        outcomes: Expiring[str, ChargeResult] = Expiring(size, round(request_window * MICRO), now_us)
        self._buckets = ReferenceBuckets(states, outcomes, self._terms)

    async def charge(self, charges: Sequence[Charge]) -> Sequence[ChargeResult]:
        """Make each charge or none of it, in this order. Always succeeds."""
        return self._buckets.charge(charges, self._now_us())

    def _terms(self, bucket: Bucket) -> Terms:
        return Terms.of(bucket.limit, max(self._share(), 1))
