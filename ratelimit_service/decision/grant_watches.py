"""Who holds grants of which keys, so that they can be withdrawn when a key changes."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ratelimit_service.decision.ports import Clock

MAX_WATCHED: Final = 10_000
"""Keys that one stream watches at a time, in some 300 bytes each."""

MAX_WATCHED_BY_ALL: Final = 100_000
"""Keys that all streams of a process watch at a time."""

MAX_NAMED: Final = 1_000
"""Keys that one message withdraws."""


class GrantWatch:
    """The keys that one stream has granted units of, each until its grants have ended."""

    def __init__(self, watches: "GrantWatches") -> None:
        self._watches = watches
        self._until: OrderedDict[str, int] = OrderedDict()  # the one first that was granted units longest ago
        self._withdrawn: OrderedDict[str, None] = OrderedDict()
        self.pending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done while there are keys to be withdrawn, and once the watch has `ended`. `take` makes a new one."""
        self.ended = False
        """Whether its stream has to end, since the process does. Its grants stay good."""

    def __len__(self) -> int:
        return len(self._until)

    def add(self, key_id: str, until_us: int, now_us: int) -> bool:
        """Watch a key until a time, in microseconds since 1970 UTC, NOW being another. False: there is no room for it.

        A key that is watched until later already stays so.
        """
        before = self._until.pop(key_id, None)
        if before is None:
            self._drop_ended(now_us)
            if len(self._until) >= MAX_WATCHED or not self._watches.enter(key_id, self):
                return False
        self._until[key_id] = until_us if before is None else max(before, until_us)
        return True

    def withdraw(self, key_id: str) -> None:
        """Have the holder of the grants of a key spend nothing more of them."""
        if self._until.pop(key_id, None) is not None:
            self._watches.leave(key_id, self)
        self._withdrawn[key_id] = None
        if not self.pending.done():
            self.pending.set_result(None)

    def withdraw_all(self) -> None:
        """Have the holder spend nothing more of any grant."""
        for key_id in list(self._until):
            self.withdraw(key_id)

    def take(self) -> list[str]:
        """Keys that are to be withdrawn, MAX_NAMED at most: there are more while `pending` is done."""
        taken = [self._withdrawn.popitem(last=False)[0] for _ in range(min(len(self._withdrawn), MAX_NAMED))]
        if not self._withdrawn and self.pending.done():
            self.pending = asyncio.get_running_loop().create_future()
        return taken

    def end(self) -> None:
        """Have its stream end."""
        self.ended = True
        if not self.pending.done():
            self.pending.set_result(None)

    def close(self) -> None:
        """Watch nothing more."""
        for key_id in self._until:
            self._watches.leave(key_id, self)
        self._until.clear()

    def _drop_ended(self, now_us: int) -> None:
        while self._until:
            key_id, until_us = next(iter(self._until.items()))
            if until_us > now_us:
                break
            del self._until[key_id]
            self._watches.leave(key_id, self)


class GrantWatches:
    """The watches of all streams of a process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_key: dict[str, list[GrantWatch]] = {}
        self._watches: set[GrantWatch] = set()
        self._watched = 0
        self._ended = False
        self.withdrawn = 0
        """Keys so far whose grants were withdrawn, once for each stream."""

    def __len__(self) -> int:
        return self._watched

    @contextmanager
    def one(self) -> Iterator[GrantWatch]:
        """The watch of one stream, until the block ends."""
        watch = GrantWatch(self)
        self._watches.add(watch)
        if self._ended:
            watch.end()
        try:
            yield watch
        finally:
            self._watches.discard(watch)
            watch.close()

    def end(self) -> None:
        """Have all streams end, and those that are opened later."""
        self._ended = True
        for watch in self._watches:
            watch.end()

    def changed(self, key_id: str) -> None:
        """Withdraw the grants of a key: it has changed, or nobody would notice if it did."""
        for watch in list(self._by_key.get(key_id, ())):
            self.withdrawn += 1
            watch.withdraw(key_id)

    async def recompile(self) -> None:
        """Withdraw all grants: limits refuse calls no more, or again."""
        for watch in list(self._watches):
            self.withdrawn += len(watch)
            watch.withdraw_all()
            await asyncio.sleep(0)

    def enter(self, key_id: str, watch: GrantWatch) -> bool:
        """Have WATCH notice when a key changes. False: too many are watched."""
        if self._watched >= MAX_WATCHED_BY_ALL:
            return False
        self._by_key.setdefault(key_id, []).append(watch)
        self._watched += 1
        return True

    def leave(self, key_id: str, watch: GrantWatch) -> None:
        """Have it notice no more."""
        watches = self._by_key[key_id]
        watches.remove(watch)
        self._watched -= 1
        if not watches:
            del self._by_key[key_id]
