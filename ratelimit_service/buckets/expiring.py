"""A mapping with entries that expire."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping
from typing import Generic, TypeVar

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
