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

MAX_SEEN: Final = 20_000
"""Digests of requests that came once are remembered, of the latest: at least so many, at most twice as many."""

MAX_PER_KEY: Final = 1_000
"""Requests of one key that are cached while as many as the cache keeps at least come in: whoever has a key cannot fill
it with resources that nobody asks for again."""

_MAX_PARTS: Final = 4
_LARGE_SHARE: Final = 64
"""A request with more parts, such as descriptors, is large: each part takes 1 KiB, and 100 of them fit a request. Of
these a 64th of the number is cached, or whoever sends them would fill gigabytes."""

T = TypeVar("T")


def digest_of(data: bytes) -> bytes:
    """16 bytes that identify a request, empty for one that is too large to be cached.

    Requests hold secrets, which cannot be found from a digest: they have too many bits to be guessed.
    """
    return blake2b(data, digest_size=16).digest() if len(data) <= MAX_BYTES else b""


class RequestCache(Generic[T]):
    """Prepared requests by digest, each valid as long as everything that it was computed from.

    Between the latest SIZE and twice as many are kept of those that came at least twice. A prepared request takes some
    2 KiB, and clients choose what is in it: whoever sends another one each time fills nothing but a list of digests (a
    doorkeeper, as in G. Einziger, R. Friedman and B. Manes, "TinyLFU").
    """

    def __init__(self, clock: Clock, size: int) -> None:
        self._clock = clock
        self._entries: LruCache[bytes, tuple[Sequence[Validity], T]] = LruCache(size)
        self._large: LruCache[bytes, tuple[Sequence[Validity], T]] = LruCache(max(1, size // _LARGE_SHARE))
        self._seen: LruCache[bytes, bytes] = LruCache(min(size, MAX_SEEN))
        self._of_key: dict[str, int] = {}  # how many were cached of each key since the last generation
        self._generation = 0

    def __len__(self) -> int:
        return len(self._entries) + len(self._large)

    def get(self, digest: bytes) -> T | None:
        """The prepared request with this digest, if it is still valid; use it before the next await."""
        found = self._entries.get(digest) or self._large.get(digest)
        if found is None:
            return None
        validities, prepared = found
        for validity in validities:
            if validity.expires_us != NO_EXPIRY and not validity.is_current(self._clock):
                return None
            validity.used = True
        return prepared

    def put(
        self, digest: bytes, validities: Sequence[Validity], prepared: T, key_id: str = "", *, parts: int = 1
    ) -> None:
        """Cache the prepared request of this digest as long as all VALIDITIES are current, if it came before.

        Ignores an empty digest. KEY_ID is the key that the request is of, empty if it is of none: at most MAX_PER_KEY
        are cached of each. PARTS is how many descriptors it has.
        """
        if not digest:
            return
        if not self._seen.get(digest):
            self._seen.put(digest, digest)
        elif all(validity.is_current(self._clock) for validity in validities):
            if key_id and not self._may_put(key_id):
                return
            (self._entries if parts <= _MAX_PARTS else self._large).put(digest, (validities, prepared))

    def _may_put(self, key_id: str) -> bool:
        if self._generation != self._entries.generation:
            self._generation = self._entries.generation
            self._of_key.clear()
        count = self._of_key.get(key_id, 0)
        self._of_key[key_id] = count + 1
        return count < MAX_PER_KEY
