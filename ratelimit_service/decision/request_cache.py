"""What requests were prepared to, so that the same request again needs neither reading nor looking up."""

from collections.abc import Sequence
from typing import Final, Generic, TypeVar

from ratelimit_service.decision.lru import LruCache
from ratelimit_service.decision.policy import Validity
from ratelimit_service.decision.ports import Clock

MAX_BYTES: Final = 1024
"""A request above it is read each time: such are rare, and cost more to digest than to read."""

T = TypeVar("T")


class RequestCache(Generic[T]):
    """RequestCache by the digest of the request's bytes, each as good as the validities of what it was worked out from.

    Between the latest SIZE and twice as many are kept.
    """

    def __init__(self, clock: Clock, size: int) -> None:
        self._clock = clock
        self._entries: LruCache[bytes, tuple[Sequence[Validity], T]] = LruCache(size)

    def __len__(self) -> int:
        return len(self._entries)

    def recall(self, digest: bytes) -> T | None:
        """What the request with this digest was prepared to, if it still holds."""
        found = self._entries.get(digest)
        if found is None:
            return None
        validities, prepared = found
        for validity in validities:
            if not validity.holds(self._clock):
                return None
            validity.used = True
        return prepared

    def remember(self, digest: bytes, validities: Sequence[Validity], prepared: T) -> None:
        """Keep what the request with this digest was prepared to, as long as all LEASES hold."""
        if all(validity.holds(self._clock) for validity in validities):
            self._entries.put(digest, (validities, prepared))
