"""The bucket store in the memory of this process, the fallback while the shared one is unavailable."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Generic, TypeVar

from ratelimit_service.buckets.reference import ReferenceBuckets, State, Terms
from ratelimit_service.decision.charge import Bucket, Charge, ChargeResult
from ratelimit_service.decision.limit import MICRO

_K = TypeVar("_K")
_V = TypeVar("_V")


class Expiring(MutableMapping[_K, _V], Generic[_K, _V]):
    """Keeps at most `size` entries, those written last, each for less than `ttl_us` microseconds after its writing."""

    def __init__(self, size: int, ttl_us: int, now_us: Callable[[], int]) -> None:
        self._size = size
        self._ttl_us = ttl_us
        self._now_us = now_us
        self._entries: OrderedDict[_K, tuple[int, _V]] = OrderedDict()

    def __getitem__(self, key: _K) -> _V:
        written_us, value = self._entries[key]
        if self._now_us() - written_us >= self._ttl_us:
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
"""Buckets that are kept, and results of requests, about 200 bytes each. Those charged longest ago are evicted first."""

# A bucket idle for longer than the longest window is untouched again anyway.
_STATE_TTL_US = 366 * 86_400 * MICRO


class LocalBucketStore:
    """Buckets in memory, each with its limit divided by the number of live servers, but never less than one token.

    So all servers together allow about as much as the limit. `servers()` is their number, at least 1, called at each
    charge. `now_us()` is the time in microseconds since 1970 UTC. `request_window` is in seconds.
    """

    def __init__(
        self,
        servers: Callable[[], int],
        now_us: Callable[[], int],
        *,
        request_window: float = 30.0,
        size: int = MAX_STATES,
    ) -> None:
        self._servers = servers
        self._now_us = now_us
        states: Expiring[str, State] = Expiring(size, _STATE_TTL_US, now_us)
        request_results: Expiring[str, ChargeResult] = Expiring(size, round(request_window * MICRO), now_us)
        self._buckets = ReferenceBuckets(states, request_results, self._terms)

    async def charge(
        self,
        charges: Sequence[Charge],
        deadline: float | None = None,  # noqa: ARG002  it never waits
    ) -> Sequence[ChargeResult]:
        """Make each charge or none of it, in this order. Always succeeds."""
        return self._buckets.charge(charges, self._now_us())

    def _terms(self, bucket: Bucket) -> Terms:
        return Terms.of(bucket.limit, max(self._servers(), 1))
