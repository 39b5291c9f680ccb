"""Visits of pools: what this process says of its holders there, and what they get."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from secrets import token_bytes
from typing import Final, Protocol

from ratelimit_service.decision.assignments.pool import OwnVisit, Pool
from ratelimit_service.decision.assignments.shares import Position, ShareStore, Visited
from ratelimit_service.decision.ports import StoreUnavailable

WATCH: Final = 0.1
"""Seconds between two reads of announcements, and before a pool is visited again of which somebody is to have more."""

REST_WATCH: Final = 0.5
"""The former while no bucket here is used. Somebody at another server may wait for so long for a share of what is held
here; read ten times a second, announcements would cost more than all else of 10,000 buckets at rest."""

BUSY_SECONDS: Final = 10.0
"""For which buckets count as used after a request was reported: two reports."""

SLOW_WATCH: Final = 1.0
"""The same after a failure, while there is no pool, and when nobody has given it up for long."""

_MAX_POOLS: Final = 32
_MAX_HOLDERS: Final = 500
"""Pools in one run of the script, and holders in these, which take Redis about a millisecond."""

_GATHER: Final = 0.02
"""Seconds for which visits gather that nobody waits for."""

_WORKER_BYTES: Final = 4


class Holders(Protocol):
    """What becomes of shares."""

    def shared(self, pool: Pool, own: OwnVisit, visited: Visited) -> bool:
        """A pool was visited. Returns whether one of its holders here is to have more."""
        ...

    def unshared(self, pool: Pool) -> None:
        """A pool could not be visited, since the store is away."""
        ...


class Sharing:
    """Visits pools of which something has become known, and those that other processes have announced.

    Announcements only save time: what they are about is noticed at the next report of a bucket, too.
    """

    def __init__(
        self,
        shares: ShareStore,
        pools: Mapping[str, Pool],
        holders: Holders,
        refresh: Callable[[Sequence[Pool]], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        """POOLS are those of this process, by name. REFRESH finds out what their limits have left, before a visit."""
        self._shares = shares
        self._pools = pools
        self._holders = holders
        self._refresh = refresh
        self._now = now
        self._wanted: OrderedDict[Pool, None] = OrderedDict()
        self._any, self._urgent = asyncio.Event(), asyncio.Event()
        self._short: dict[Pool, tuple[float, float]] = {}  # when each is visited again, and the pause after that
        self._worker = token_bytes(_WORKER_BYTES)
        self._position = Position()
        self.used_at = now()
        """When a request was reported last, or somebody waited for a share, in monotonic seconds."""

    @property
    def short(self) -> int:
        """Pools of which a holder here is to have more than others have given up yet."""
        return len(self._short)

    def want(self, pool: Pool, *, urgent: bool = False) -> None:
        """Visit POOL soon; at once, if somebody waits for it."""
        self._wanted[pool] = None
        self._any.set()
        if urgent:
            self.used_at = self._now()
            self._urgent.set()

    def forget(self, pool: Pool) -> None:
        """Visit POOL no more."""
        self._wanted.pop(pool, None)
        self._short.pop(pool, None)

    async def keep_visiting(self) -> None:
        """Visit what is wanted, until cancelled."""
        while True:
            await self._any.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(_GATHER):
                    await self._urgent.wait()
            await self.visit()

    async def visit(self) -> bool:
        """Visit some of the pools that are wanted. Returns whether more of them are."""
        pools: list[Pool] = []
        holders = 0
        while self._wanted and len(pools) < _MAX_POOLS and holders < _MAX_HOLDERS:
            pool, _ = self._wanted.popitem(last=False)
            if pool.is_shared and (pool.subscriptions or pool.leaving):
                pools.append(pool)
                holders += max(pool.holders, len(pool.subscriptions))
        if not self._wanted:
            self._any.clear()
            self._urgent.clear()
        if pools:
            await self._visit(pools)
        return bool(self._wanted)

    @property
    def pause(self) -> float:
        """Seconds before announcements are read again."""
        if not self._pools:
            return SLOW_WATCH
        return WATCH if self._short or self._now() - self.used_at < BUSY_SECONDS else REST_WATCH

    async def keep_watching(self) -> None:
        """Watch, until cancelled."""
        while True:
            await asyncio.sleep(self.pause)
            if not await self.watch():
                await asyncio.sleep(SLOW_WATCH)

    async def watch(self) -> bool:
        """Read announcements, and have pools visited that they are of, or that are short. False without the store."""
        names: Sequence[bytes] = ()
        read = True
        if self._pools:
            try:
                names, self._position = await self._shares.announced(self._position)
            except StoreUnavailable:
                read = False
        for name in names:
            pool = self._pools.get(name[_WORKER_BYTES:].decode())
            if pool is not None and not name.startswith(self._worker):
                self.want(pool, urgent=True)
        now = self._now()
        for pool, (at, _) in self._short.items():
            if at <= now:
                self.want(pool, urgent=True)
        return read

    async def _visit(self, pools: Sequence[Pool]) -> None:
        await self._refresh([pool for pool in pools if pool.terms.has_level])
        now = self._now()
        own = [pool.visit(now) for pool in pools]
        try:
            visited = await self._shares.visit([each.visit for each in own])
        except StoreUnavailable:
            for pool in pools:
                self._short[pool] = now + SLOW_WATCH, SLOW_WATCH
                self._holders.unshared(pool)
            return
        over = []
        for pool, made, result in zip(pools, own, visited, strict=True):
            pool.visited(made, result)
            if self._holders.shared(pool, made, result):
                _, pause = self._short.get(pool, (0.0, WATCH))
                self._short[pool] = now + pause, min(2 * pause, SLOW_WATCH)
            else:
                self._short.pop(pool, None)
            if result.others_due:
                over.append(self._worker + pool.name.encode())
        if over:
            with suppress(StoreUnavailable):
                await self._shares.announce(over)
