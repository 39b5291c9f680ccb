"""The bucket store on a Redis Cluster."""

import asyncio
from collections.abc import Callable, Sequence

from ratelimit_service.buckets.closing import Closing
from ratelimit_service.buckets.health import UNWATCHED, Watcher
from ratelimit_service.buckets.outcomes import Outcome, outcomes_of, results_of
from ratelimit_service.buckets.redis.batcher import Batcher
from ratelimit_service.buckets.redis.cluster import Cluster, slot_of
from ratelimit_service.buckets.redis.connection import Address, Connection
from ratelimit_service.buckets.redis.loss_watch import LossWatch
from ratelimit_service.buckets.redis.observers import Observers
from ratelimit_service.buckets.redis.room_watch import RoomWatch
from ratelimit_service.buckets.redis.script import Encoder, partition_tag
from ratelimit_service.buckets.redis.store import split_by_size
from ratelimit_service.buckets.redis.traced import open_batcher
from ratelimit_service.buckets.redis.watch import Watch
from ratelimit_service.decision.charge import Bucket, Charge, ChargeResult
from ratelimit_service.decision.policy import PARTITIONS


class ClusterBucketStore(Closing):
    """Buckets on the nodes of a cluster, those of one partition in one slot.

    A script may access one slot only, so each partition has its own batcher. `timeout` in seconds bounds each call.
    Belongs to the running loop; close it, or use it as `async with`.
    """

    breaker_open = False
    """It has no breaker."""

    def __init__(self, cluster: Cluster, encoder: Encoder, timeout: float, observers: Observers) -> None:
        self.cluster = cluster
        """The topology and connections."""
        self._encoder = encoder
        self._timeout = timeout
        self._observers = observers
        self._batchers: dict[int, Batcher] = {}
        self._watcher: Watcher = UNWATCHED
        self._watches: list[Watch] = []

    def watch_room(self, bound: int, report: Callable[[float, str], None]) -> None:
        """Ask the nodes from now on how much of their memory they use: at most once. The arguments are RoomWatch's."""
        self._watch(RoomWatch(self.cluster, bound, report))

    def watch_losses(self) -> None:
        """Raise quotas again from now on when a node has lost data: at most once, before the first charge."""
        losses = LossWatch(_Nodes(self.cluster), self._observers.levels, self._observers.round_trips)
        self.cluster.greeting = losses.greet
        self._watch(losses)

    def _watch(self, watch: Watch) -> None:
        self._watches.append(watch)
        watch.start()

    async def charge(self, charges: Sequence[Charge], deadline: float | None = None) -> Sequence[ChargeResult]:
        """Make each charge or none of it, atomically, those of one partition in this order.

        Raises StoreUnavailable, PartlyUnavailable when some partitions could be charged, and ValueError when the
        buckets of one charge are in several partitions.
        """
        if len(charges) == 1:
            return await self._batcher(_partition(charges[0])).submit(charges, deadline)
        by_partition: dict[int, list[int]] = {}
        for index, charge in enumerate(charges):
            by_partition.setdefault(_partition(charge), []).append(index)
        parts: list[list[int]] = []
        futures = []
        for partition, indexes in by_partition.items():
            start = 0
            for part in split_by_size([charges[index] for index in indexes]):
                futures.append(self._batcher(partition).submit(part, deadline))
                parts.append(indexes[start : start + len(part)])
                start += len(part)
        outcomes: dict[int, Outcome] = {}
        for indexes, returned in zip(parts, await asyncio.gather(*futures, return_exceptions=True), strict=True):
            outcomes.update(zip(indexes, outcomes_of(returned, len(indexes)), strict=True))
        return results_of([outcomes[index] for index in range(len(charges))])

    def watch(self, watcher: Watcher) -> None:
        """Tell WATCHER from now on how the nodes behave: before the first charge."""
        self._watcher = watcher

    def node_of(self, charge: Charge) -> Address | None:
        """The node that has the charge's partition, None as long as it is unknown."""
        return self.cluster.owner(slot_of(_partition(charge)))

    async def ping(self) -> None:
        """Run the script without charges on each node that has partitions. Raises StoreUnavailable."""
        partitions = {self.cluster.owner(slot_of(partition)): partition for partition in range(PARTITIONS)}
        await asyncio.gather(*(self._batcher(partition).submit(()) for partition in partitions.values()))

    async def ping_node(self, node: Address | None) -> None:
        """Run the script without charges for a partition of this node. Raises StoreUnavailable.

        If another node has taken its slot over, this updates the topology. A node that has no partitions left keeps
        nobody waiting, and is reported so: no reply of its own will ever do that.
        """
        for partition in range(PARTITIONS):
            if self.cluster.owner(slot_of(partition)) == node:
                await self._batcher(partition).submit(())
                if self.cluster.owner(slot_of(partition)) == node:
                    return
        self._watcher.answered(node, 0.0)

    async def close(self) -> None:
        """Fail all calls that have no result yet, and close the connections."""
        for watch in self._watches:
            watch.stop()
        for batcher in self._batchers.values():
            batcher.close()
        await self.cluster.close()

    def _batcher(self, partition: int) -> Batcher:
        batcher = self._batchers.get(partition)
        if batcher is None:
            route = self.cluster.route(partition)
            batcher = self._batchers[partition] = open_batcher(
                route, self._encoder, partition_tag(partition), self._timeout, self._observers
            )
            batcher.watcher = self._watcher
        return batcher


class _Nodes:
    """The nodes of a cluster, of which each has the tags of some partitions."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.connections = cluster.connections

    def tags_of(self, connection: Connection) -> Sequence[bytes]:
        owner, address = self._cluster.owner, connection.address
        return [partition_tag(number) for number in range(PARTITIONS) if owner(slot_of(number)) == address]

    def tag_of(self, bucket: Bucket) -> bytes:
        return partition_tag(bucket.partition)


def _partition(charge: Charge) -> int:
    buckets = charge.buckets
    if not buckets:
        return 0
    partition = buckets[0].partition
    if any(bucket.partition != partition for bucket in buckets[1:]):
        partitions = sorted({bucket.partition for bucket in buckets})
        raise ValueError(f"a charge has buckets in the partitions {partitions}; on a cluster only one is possible")
    return partition
