"""Requests by their bytes: the same bytes again need neither parsing nor a lookup.

A gateway checks the same key and resource again and again. Finding such a request prepared takes 0.6 us and saves 1.9
(docs/adr/0009).
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, Generic, TypeVar

from ratelimit_service.decision.lru import LruCache
from ratelimit_service.decision.policy import NO_EXPIRY, Validity
from ratelimit_service.decision.ports import Clock

MAX_BYTES: Final = 1024
"""A larger request is parsed each time: they are rare, and cost more to hash than to parse."""

MAX_PER_KEY: Final = 1_000
"""Requests of one key that are cached while as many as the cache keeps at least come in: whoever has a key cannot fill
it with resources that nobody asks for again."""

T = TypeVar("T")


def digest_of(data: bytes) -> bytes:
    """16 bytes that identify a request, empty for one that is too large to be cached.

    Requests hold secrets, which cannot be found from a digest: they have too many bits to be guessed.
    """
    return blake2b(data, digest_size=16).digest() if len(data) <= MAX_BYTES else b""


class RequestCache(Generic[T]):
    """Prepared requests by digest, each valid as long as everything that it was computed from.

    Between the latest SIZE and twice as many are kept.
    """

    def __init__(self, clock: Clock, size: int) -> None:
        self._clock = clock
        self._entries: LruCache[bytes, tuple[Sequence[Validity], T]] = LruCache(size)
        self._of_key: dict[str, int] = {}  # how many were cached of each key since the last generation
        self._generation = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, digest: bytes) -> T | None:
        """The prepared request with this digest, if it is still valid; use it before the next await."""
        found = self._entries.get(digest)
        if found is None:
            return None
        validities, prepared = found
        for validity in validities:
            if validity.expires_us != NO_EXPIRY and not validity.is_current(self._clock):
                return None
            validity.used = True
        return prepared

    def put(self, digest: bytes, validities: Sequence[Validity], prepared: T, key_id: str = "") -> None:
        """Cache the prepared request of this digest as long as all VALIDITIES are current. Ignores an empty digest.

        KEY_ID is the key that the request is of, empty if it is not of one: at most MAX_PER_KEY are cached of each.
        """
        if digest and all(validity.is_current(self._clock) for validity in validities):
            if key_id and not self._may_put(key_id):
                return
            self._entries.put(digest, (validities, prepared))

    def _may_put(self, key_id: str) -> bool:
        if self._generation != self._entries.generation:
            self._generation = self._entries.generation
            self._of_key.clear()
        count = self._of_key.get(key_id, 0)
        self._of_key[key_id] = count + 1
        return count < MAX_PER_KEY
