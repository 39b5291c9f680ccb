"""A bounded LRU cache of two generations."""

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """Keeps the `size` to twice `size` entries that were put or read most recently, without tracking their order.

    Two generations: when the young one is full it becomes the old one, and the old one is dropped. An entry read from
    the old one becomes young again. So a flood of keys that are seen once does not evict those in steady use.
    """

    __slots__ = ("_old", "_size", "_young")

    def __init__(self, size: int) -> None:
        self._size = size
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: K) -> V | None:
        """The value of KEY, or None if it is not cached."""
        found = self._young.get(key)
        if found is None:
            found = self._old.pop(key, None)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: K, value: V) -> None:
        """Cache VALUE under KEY."""
        if len(self._young) >= self._size:
            self._old, self._young = self._young, {}
        self._young[key] = value
