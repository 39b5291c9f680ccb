"""Requests by their bytes: the same bytes again need neither parsing nor a lookup.

A gateway checks the same key and resource again and again. Finding such a request prepared takes 0.6 us and saves 1.9
(docs/adr/0009).
"""

from collections import OrderedDict
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
"""Requests of one key that are cached while as many as the cache keeps come in: whoever has a key cannot fill it with
resources that nobody asks for again."""

_PASSED: Final = 2
"""Old requests that are passed for each new one, so that those which are no longer valid never pile up."""

_MAX_PASSED: Final = 16
"""And at most, when the cache is full of requests in use: then one of those goes."""

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


class _Cached(Generic[T]):
    """A prepared request. `used`: whether it was found since it was put, or since it was last passed."""

    __slots__ = ("prepared", "used", "validities")

    def __init__(self, validities: Sequence[Validity], prepared: T) -> None:
        self.validities = validities
        self.prepared = prepared
        self.used = False


class RequestCache(Generic[T]):
    """Prepared requests by digest, each valid as long as everything that it was computed from.

    At most SIZE are kept of those that came at least twice. A prepared request takes some 2 KiB, and clients choose
    what is in it: whoever sends another one each time fills nothing but a list of digests (a doorkeeper, as in
    G. Einziger, R. Friedman and B. Manes, "TinyLFU"). With each new one the oldest few are passed: those that are no
    longer valid are dropped, and if the cache is full those that were not used since they were last passed (the CLOCK
    algorithm). So memory neither keeps policies that were evicted nor swings.
    """

    def __init__(self, clock: Clock, size: int) -> None:
        self._clock = clock
        self._size = size
        self._entries: OrderedDict[bytes, _Cached[T]] = OrderedDict()
        self._large: OrderedDict[bytes, _Cached[T]] = OrderedDict()
        self._seen: LruCache[bytes, bytes] = LruCache(min(size, MAX_SEEN))
        self._of_key: dict[str, int] = {}  # how many were cached of each key while the last `_counted` came in
        self._counted = 0

    def __len__(self) -> int:
        return len(self._entries) + len(self._large)

    def get(self, digest: bytes) -> T | None:
        """The prepared request with this digest, if it is still valid; use it before the next await."""
        found = self._entries.get(digest) or self._large.get(digest)
        if found is None:
            return None
        for validity in found.validities:
            if validity.expires_us != NO_EXPIRY and not validity.is_current(self._clock):
                return None
            validity.used = True
        found.used = True
        return found.prepared

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
        elif self._are_current(validities):
            if key_id and not self._may_put(key_id):
                return
            if parts <= _MAX_PARTS:
                self._put(self._entries, self._size, digest, _Cached(validities, prepared))
            else:
                self._put(self._large, max(1, self._size // _LARGE_SHARE), digest, _Cached(validities, prepared))

    def _put(self, entries: OrderedDict[bytes, _Cached[T]], size: int, digest: bytes, new: _Cached[T]) -> None:
        entries.pop(digest, None)
        passed = 0
        while entries and (passed < _PASSED or len(entries) >= size):
            oldest, entry = next(iter(entries.items()))
            passed += 1
            needed = len(entries) < size or (entry.used and passed < _MAX_PASSED)
            if needed and self._are_current(entry.validities):
                entry.used = False
                entries.move_to_end(oldest)
            else:
                del entries[oldest]
        entries[digest] = new
        self._counted += 1

    def _are_current(self, validities: Sequence[Validity]) -> bool:
        return all(validity.is_current(self._clock) for validity in validities)

    def _may_put(self, key_id: str) -> bool:
        if self._counted >= self._size:
            self._counted = 0
            self._of_key.clear()
        count = self._of_key.get(key_id, 0)
        self._of_key[key_id] = count + 1
        return count < MAX_PER_KEY
