"""The bucket store on a Redis Cluster."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from ratelimit_service.buckets.redis.batcher import Lane, TripObserver
from ratelimit_service.buckets.redis.cluster import Cluster
from ratelimit_service.buckets.redis.script import Encoder
from ratelimit_service.buckets.redis.store import portions
from ratelimit_service.decision.charge import Charge, Outcome


class ClusterBucketStore:
    """Buckets on the nodes of a cluster, those of one partition in one slot.

    A script may touch one slot only, so each partition has a lane of its own. A call with charges for several
    partitions fails as a whole when one of them does; the others may have been made then. `timeout` in seconds bounds
    each call. Belongs to the running loop; close it, or use it as `async with`.
    """

    def __init__(self, cluster: Cluster, encoder: Encoder, timeout: float, observer: TripObserver) -> None:
        self._cluster = cluster
        self._encoder = encoder
        self._timeout = timeout
        self._observer = observer
        self._lanes: dict[int, Lane] = {}

    async def charge(self, charges: Sequence[Charge]) -> Sequence[Outcome]:
        """Make each charge or none of it, atomically, those of one partition in this order.

        Raises StoreUnavailable, and ValueError when the buckets of one charge are in several partitions.
        """
        if len(charges) == 1:
            return await self._lane(_partition(charges[0])).submit(charges)
        places: dict[int, list[int]] = {}
        for place, charge in enumerate(charges):
            places.setdefault(_partition(charge), []).append(place)
        order: list[int] = []
        parts = []
        for partition, here in places.items():
            order += here
            lane = self._lane(partition)
            parts += [lane.submit(part) for part in portions([charges[place] for place in here])]
        answers = [outcome for outcomes in await asyncio.gather(*parts) for outcome in outcomes]
        return [answer for _, answer in sorted(zip(order, answers, strict=True), key=lambda pair: pair[0])]

    async def ping(self) -> None:
        """Run the script on nothing, at one of the nodes. Raises StoreUnavailable."""
        await self._lane(0).submit(())

    async def close(self) -> None:
        """Fail what is not answered yet, and close the connections."""
        for lane in self._lanes.values():
            lane.close()
        await self._cluster.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _lane(self, partition: int) -> Lane:
        lane = self._lanes.get(partition)
        if lane is None:
            route = self._cluster.route(partition)
            lane = self._lanes[partition] = Lane(route, self._encoder, self._timeout, self._observer)
        return lane


def _partition(charge: Charge) -> int:
    buckets = charge.buckets
    if not buckets:
        return 0
    partition = buckets[0].partition
    if any(bucket.partition != partition for bucket in buckets[1:]):
        several = sorted({bucket.partition for bucket in buckets})
        raise ValueError(f"a charge takes from the partitions {several}; a cluster can take from one only")
    return partition
