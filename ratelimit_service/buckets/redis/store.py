"""The bucket store on one Redis or Valkey server."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from ratelimit_service.buckets.closing import Closing
from ratelimit_service.buckets.health import Watcher
from ratelimit_service.buckets.outcomes import outcomes_of, results_of
from ratelimit_service.buckets.redis.batcher import MAX_SIZE, Route
from ratelimit_service.buckets.redis.connection import Connection, Greeting
from ratelimit_service.buckets.redis.loss_watch import LossWatch
from ratelimit_service.buckets.redis.observers import Observers
from ratelimit_service.buckets.redis.room_watch import RoomWatch
from ratelimit_service.buckets.redis.script import ONE_TAG, Encoder
from ratelimit_service.buckets.redis.traced import open_batcher
from ratelimit_service.buckets.redis.watch import Watch
from ratelimit_service.decision.charge import Bucket, Charge, ChargeResult


class ClosableRoute(Route, Protocol):
    """A route that can be closed. `greeting` is done with each new connection."""

    greeting: Greeting

    def connections(self) -> Sequence[Connection]:
        """The open connection, if there is one now."""
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...


class RedisBucketStore(Closing):
    """Buckets on one server, which has them all: a charge may take from any of them.

    Calls of one iteration of the loop share one script run, so the cost per call falls as load rises. `timeout` in
    seconds bounds each call. Belongs to the running loop; close it, or use it as `async with`.
    """

    breaker_open = False
    """It has no breaker."""

    def __init__(self, route: ClosableRoute, encoder: Encoder, timeout: float, observers: Observers) -> None:
        self._route = route
        self._batcher = open_batcher(route, encoder, ONE_TAG, timeout, observers)
        self._observers = observers
        self._watches: list[Watch] = []

    def watch_room(self, bound: int, report: Callable[[float, str], None]) -> None:
        """Ask the server from now on how much of its memory it uses: at most once. The arguments are RoomWatch's."""
        self._watch(RoomWatch(self._route, bound, report))

    def watch_losses(self) -> None:
        """Raise quotas again from now on when the server has lost data: at most once, before the first charge."""
        losses = LossWatch(_OneServer(self._route), self._observers.levels, self._observers.round_trips)
        self._route.greeting = losses.greet
        self._watch(losses)

    def _watch(self, watch: Watch) -> None:
        self._watches.append(watch)
        watch.start()

    def charge(self, charges: Sequence[Charge], deadline: float | None = None) -> Awaitable[Sequence[ChargeResult]]:
        """Make each charge or none of it, atomically and in this order.

        Raises StoreUnavailable, and PartlyUnavailable when they were so many that they took several runs, of which only
        some were made.
        """
        if len(charges) == 1:  # nearly always: it takes one run, whatever its size
            return self._batcher.submit(charges, deadline)
        return self._charge_all(charges, deadline)

    async def _charge_all(self, charges: Sequence[Charge], deadline: float | None) -> Sequence[ChargeResult]:
        parts = split_by_size(charges)
        futures = [self._batcher.submit(part, deadline) for part in parts]
        if len(futures) == 1:
            return await futures[0]
        returned = await asyncio.gather(*futures, return_exceptions=True)
        outcomes = map(outcomes_of, returned, map(len, parts))
        return results_of([outcome for part in outcomes for outcome in part])

    def watch(self, watcher: Watcher) -> None:
        """Tell WATCHER from now on how the server behaves."""
        self._batcher.watcher = watcher

    def node_of(self, charge: Charge) -> None:
        """There is one node for all charges."""

    async def ping(self) -> None:
        """Run the script without charges: succeeds if a charge would. Raises StoreUnavailable."""
        await self._batcher.submit(())

    async def ping_node(self, _node: object) -> None:
        """The same as `ping`."""
        await self.ping()

    async def close(self) -> None:
        """Fail all calls that have no result yet, and close the connection."""
        for watch in self._watches:
            watch.stop()
        self._batcher.close()
        await self._route.close()


class _OneServer:
    """One server has all tags, so that one of them stands for all."""

    def __init__(self, route: ClosableRoute) -> None:
        self.connections = route.connections

    def tags_of(self, _connection: Connection) -> Sequence[bytes]:
        return (ONE_TAG,)

    def tag_of(self, _bucket: Bucket) -> bytes:
        return ONE_TAG


def split_by_size(charges: Sequence[Charge]) -> list[Sequence[Charge]]:
    """Split CHARGES, in order, into the fewest parts that each fit into one script run."""
    if sum([len(buckets) + len(counted) for buckets, _, _, counted, _, _ in charges]) <= MAX_SIZE:
        return [charges]
    parts: list[Sequence[Charge]] = []
    start = size = 0
    for end, charge in enumerate(charges):
        own = len(charge.buckets) + len(charge.counted)
        if size + own > MAX_SIZE and end > start:
            parts.append(charges[start:end])
            start, size = end, 0
        size += own
    parts.append(charges[start:])
    return parts
