"""Which ids a key may have, as far as is known: a Bloom filter, in 3 bytes for each key."""

from collections.abc import Iterable
from hashlib import blake2b
from secrets import token_bytes
from typing import Final

_BITS_PER_ID: Final = 24
_PROBES: Final = 8
"""With 24 bits for each id, 4 of 100,000 other ids are taken for one."""

_MIN_IDS: Final = 50_000
_MAX_BITS: Final = 2**28
"""32 MiB. Beyond 11 million ids, which have 24 bits each then, more and more other ids are taken for one."""


class KnownIds:
    """Ids that were added, and a few others: `in` is never False for an id that was added.

    Burton H. Bloom, "Space/time trade-offs in hash coding with allowable errors" (1970), with the two hashes of Adam
    Kirsch and Michael Mitzenmacher, "Less hashing, same performance" (2006). The hashes have a key that nobody knows,
    so nobody can make up ids that are taken for one.
    """

    def __init__(self, expected: int) -> None:
        """For half as many again as are EXPECTED; `is_full` when it has more."""
        self._capacity = max(expected + expected // 2, _MIN_IDS)
        bits = min(_MAX_BITS, self._capacity * _BITS_PER_ID)
        self._mask = (1 << (bits - 1).bit_length()) - 1
        self._bits = bytearray((self._mask >> 3) + 1)
        self._key = token_bytes(16)
        self._count = 0

    def __len__(self) -> int:
        """How many were added. One that was added twice may count twice."""
        return self._count

    def __contains__(self, key_id: str) -> bool:
        bits, mask = self._bits, self._mask
        at, step = self._hashes(key_id)
        for _ in range(_PROBES):
            if not bits[(at & mask) >> 3] & 1 << (at & 7):
                return False
            at += step
        return True

    @property
    def is_full(self) -> bool:
        """Whether a larger one would make fewer mistakes."""
        return self._count > self._capacity and self._mask + 1 < _MAX_BITS

    def add(self, key_ids: Iterable[str]) -> None:
        """Add ids."""
        bits, mask = self._bits, self._mask
        for key_id in key_ids:
            at, step = self._hashes(key_id)
            for _ in range(_PROBES):
                bits[(at & mask) >> 3] |= 1 << (at & 7)
                at += step
            self._count += 1

    def _hashes(self, key_id: str) -> tuple[int, int]:
        digest = blake2b(key_id.encode("utf-8", "surrogatepass"), digest_size=16, key=self._key).digest()
        return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big") | 1
