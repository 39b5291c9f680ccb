"""A bounded memory of what was worked out lately."""

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """Keeps what was put or read lately: between `size` and twice `size` things, without any order to maintain.

    Two generations: when the young one is full it becomes the old one, and the old one is forgotten. What is read from
    the old one is young again. So a flood of names that are seen once does not push out those in steady use.
    """

    __slots__ = ("_old", "_size", "_young")

    def __init__(self, size: int) -> None:
        self._size = size
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: K) -> V | None:
        """What was put under KEY, if it is still here."""
        found = self._young.get(key)
        if found is None:
            found = self._old.pop(key, None)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: K, value: V) -> None:
        """Keep VALUE under KEY."""
        if len(self._young) >= self._size:
            self._old, self._young = self._young, {}
        self._young[key] = value
