"""The bucket store on a Redis Cluster."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from ratelimit_service.buckets.redis.batcher import Batcher, RoundTripObserver
from ratelimit_service.buckets.redis.cluster import Cluster
from ratelimit_service.buckets.redis.script import Encoder
from ratelimit_service.buckets.redis.store import portions
from ratelimit_service.decision.charge import Charge, ChargeResult


class ClusterBucketStore:
    """Buckets on the nodes of a cluster, those of one partition in one slot.

    A script may touch one slot only, so each partition has a batcher of its own. A call with charges for several
    partitions fails as a whole when one of them does; the others may have been made then. `timeout` in seconds bounds
    each call. Belongs to the running loop; close it, or use it as `async with`.
    """

    def __init__(self, cluster: Cluster, encoder: Encoder, timeout: float, observer: RoundTripObserver) -> None:
        self._cluster = cluster
        self._encoder = encoder
        self._timeout = timeout
        self._observer = observer
        self._batchers: dict[int, Batcher] = {}

    async def charge(self, charges: Sequence[Charge]) -> Sequence[ChargeResult]:
        """Make each charge or none of it, atomically, those of one partition in this order.

        Raises StoreUnavailable, and ValueError when the buckets of one charge are in several partitions.
        """
        if len(charges) == 1:
            return await self._batcher(_partition(charges[0])).submit(charges)
        places: dict[int, list[int]] = {}
        for place, charge in enumerate(charges):
            places.setdefault(_partition(charge), []).append(place)
        order: list[int] = []
        parts = []
        for partition, here in places.items():
            order += here
            batcher = self._batcher(partition)
            parts += [batcher.submit(part) for part in portions([charges[place] for place in here])]
        answers = [outcome for outcomes in await asyncio.gather(*parts) for outcome in outcomes]
        return [answer for _, answer in sorted(zip(order, answers, strict=True), key=lambda pair: pair[0])]

    async def ping(self) -> None:
        """Run the script on nothing, at one of the nodes. Raises StoreUnavailable."""
        await self._batcher(0).submit(())

    async def close(self) -> None:
        """Fail what is not answered yet, and close the connections."""
        for batcher in self._batchers.values():
            batcher.close()
        await self._cluster.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _batcher(self, partition: int) -> Batcher:
        batcher = self._batchers.get(partition)
        if batcher is None:
            route = self._cluster.route(partition)
            batcher = self._batchers[partition] = Batcher(route, self._encoder, self._timeout, self._observer)
        return batcher


def _partition(charge: Charge) -> int:
    buckets = charge.buckets
    if not buckets:
        return 0
    partition = buckets[0].partition
    if any(bucket.partition != partition for bucket in buckets[1:]):
        several = sorted({bucket.partition for bucket in buckets})
        raise ValueError(f"a charge takes from the partitions {several}; a cluster can take from one only")
    return partition
