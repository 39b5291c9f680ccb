"""What requests were prepared to, so that the same request again needs neither reading nor looking up."""

from collections.abc import Sequence
from typing import Final, Generic, TypeVar

from ratelimit_service.decision.lru import Recent
from ratelimit_service.decision.policy import Lease
from ratelimit_service.decision.ports import Clock

MOST_BYTES: Final = 1024
"""A request above it is read each time: such are rare, and cost more to digest than to read."""

T = TypeVar("T")


class Preparations(Generic[T]):
    """Preparations by the digest of the request's bytes, each as good as the leases of what it was worked out from.

    Between the latest SIZE and twice as many are kept.
    """

    def __init__(self, clock: Clock, size: int) -> None:
        self._clock = clock
        self._recent: Recent[bytes, tuple[Sequence[Lease], T]] = Recent(size)

    def __len__(self) -> int:
        return len(self._recent)

    def recall(self, digest: bytes) -> T | None:
        """What the request with this digest was prepared to, if it still holds."""
        found = self._recent.get(digest)
        if found is None:
            return None
        leases, prepared = found
        for lease in leases:
            if not lease.holds(self._clock):
                return None
            lease.used = True
        return prepared

    def remember(self, digest: bytes, leases: Sequence[Lease], prepared: T) -> None:
        """Keep what the request with this digest was prepared to, as long as all LEASES hold."""
        if all(lease.holds(self._clock) for lease in leases):
            self._recent.put(digest, (leases, prepared))
