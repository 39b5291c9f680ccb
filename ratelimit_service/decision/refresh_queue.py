"""The subjects and plans that changed, whose cached keys are still to be read again."""

from collections import OrderedDict
from collections.abc import Callable, Collection
from time import monotonic
from typing import Final, TypeAlias

from ratelimit_service.decision.ports import ChangeKind

MAX_PER_CHUNK: Final = 100
"""Keys that are read again by one statement: some 5 ms, for which a key that changed itself may have to wait."""

Target: TypeAlias = tuple[ChangeKind, str] | None
"""A subject or plan by its name, or None: every key."""


class _Pass:
    """One pass over the keys of a target. `remaining` is None before it has begun."""

    __slots__ = ("again_since", "remaining", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.remaining: list[str] | None = None
        self.again_since: float | None = None  # when it changed after this pass had begun


class RefreshQueue:
    """Takes turns between targets, so that a subject's few keys do not wait for a plan's 100,000.

    A target that changes during its pass gets another pass after it: its changes are combined, however many there are.
    So a change costs the same whatever the number of keys, and memory is bounded by the targets that have cached keys.
    """

    def __init__(self, keys_of: Callable[[Target], Collection[str]], now: Callable[[], float] = monotonic) -> None:
        """KEYS_OF lists the cached keys of a target."""
        self._keys_of = keys_of
        self._now = now
        self._waiting: OrderedDict[Target, _Pass] = OrderedDict()
        self._taken: dict[Target, tuple[_Pass, int]] = {}  # being read, and how many of its keys remain after that

    def __len__(self) -> int:
        return len(self._waiting) + len(self._taken)

    @property
    def age(self) -> float:
        """Seconds since the oldest change that not all cached keys have yet. 0: they have all changes."""
        times = [one.since for one in self._waiting.values()] + [one.since for one, _ in self._taken.values()]
        return self._now() - min(times) if times else 0.0

    def add(self, target: Target) -> None:
        """The target has changed, so that all that was read of it before is out of date."""
        current = self._waiting.get(target)
        if current is None and target in self._taken:
            current, _ = self._taken[target]
        if current is None:
            self._waiting[target] = _Pass(self._now())
        elif current.remaining is not None and current.again_since is None:
            current.again_since = self._now()

    def take(self) -> list[str]:
        """The keys to read next, at most MAX_PER_CHUNK; empty when there are none. `end` must follow."""
        keys: list[str] = []
        while self._waiting and len(keys) < MAX_PER_CHUNK:
            target, current = self._waiting.popitem(last=False)
            if current.remaining is None:
                current.remaining = list(self._keys_of(target))
            left = max(0, len(current.remaining) - (MAX_PER_CHUNK - len(keys)))
            keys += current.remaining[left:]
            self._taken[target] = (current, left)
        if not keys:
            self.end(read=True)
        return keys

    def end(self, *, read: bool) -> None:
        """The keys that were taken have been READ, and are in force; or they could not be, and are taken again."""
        for target, (current, left) in self._taken.items():
            if read and current.remaining:
                del current.remaining[left:]
            if current.remaining:
                self._waiting[target] = current  # at the end: it is others' turn
            elif current.again_since is not None:
                self._waiting[target] = _Pass(current.again_since)
        self._taken.clear()
