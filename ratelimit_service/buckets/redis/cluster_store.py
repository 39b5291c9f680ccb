"""The bucket store on a Redis Cluster."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from ratelimit_service.buckets.redis.batcher import Batcher, RoundTripObserver
from ratelimit_service.buckets.redis.cluster import Cluster, slot_of
from ratelimit_service.buckets.redis.connection import Address
from ratelimit_service.buckets.redis.script import Encoder
from ratelimit_service.buckets.redis.store import portions
from ratelimit_service.decision.charge import Charge, ChargeResult
from ratelimit_service.decision.policy import PARTITIONS
from ratelimit_service.decision.ports import PartlyUnavailable


class ClusterBucketStore:
    """Buckets on the nodes of a cluster, those of one partition in one slot.

    A script may touch one slot only, so each partition has a batcher of its own. `timeout` in seconds bounds each call.
    Belongs to the running loop; close it, or use it as `async with`.
    """

    breaker_open = False
    """It has no breaker."""

    def __init__(self, cluster: Cluster, encoder: Encoder, timeout: float, observer: RoundTripObserver) -> None:
        self.cluster = cluster
        """Knows which node has which slot."""
        self._encoder = encoder
        self._timeout = timeout
        self._observer = observer
        self._batchers: dict[int, Batcher] = {}

    async def charge(self, charges: Sequence[Charge]) -> Sequence[ChargeResult]:
        """Make each charge or none of it, atomically, those of one partition in this order.

        Raises StoreUnavailable, PartlyUnavailable when some partitions could be charged, and ValueError when the
        buckets of one charge are in several partitions.
        """
        if len(charges) == 1:
            return await self._batcher(_partition(charges[0])).submit(charges)
        places: dict[int, list[int]] = {}
        for place, charge in enumerate(charges):
            places.setdefault(_partition(charge), []).append(place)
        order: list[list[int]] = []
        batches = []
        for partition, here in places.items():
            for part in portions([charges[place] for place in here]):
                batches.append(self._batcher(partition).submit(part))
                order.append(here[: len(part)])
                here = here[len(part) :]  # noqa: PLW2901
        results: list[ChargeResult | None] = [None] * len(charges)
        errors: list[BaseException] = []
        for here, answer in zip(order, await asyncio.gather(*batches, return_exceptions=True), strict=True):
            if isinstance(answer, BaseException):
                errors.append(answer)
                continue
            for place, result in zip(here, answer, strict=True):
                results[place] = result
        if len(errors) == len(order):
            raise errors[0]
        if errors:
            raise PartlyUnavailable(str(errors[0]), results)
        return [result for result in results if result is not None]

    def node_of(self, charge: Charge) -> Address | None:
        """The node that the charge's partition is on, None as long as nobody said."""
        return self.cluster.owner(slot_of(_partition(charge)))

    async def ping(self) -> None:
        """Run the script on nothing, at each node that has buckets. Raises StoreUnavailable."""
        partitions = {self.cluster.owner(slot_of(partition)): partition for partition in range(PARTITIONS)}
        await asyncio.gather(*(self._batcher(partition).submit(()) for partition in partitions.values()))

    async def ping_node(self, node: Address | None) -> None:
        """Run the script on nothing, for one of the partitions that this node has had. Raises StoreUnavailable.

        If another node has taken them over, it is found out by this.
        """
        for partition in range(PARTITIONS):
            if self.cluster.owner(slot_of(partition)) == node:
                await self._batcher(partition).submit(())
                return

    async def close(self) -> None:
        """Fail what is not answered yet, and close the connections."""
        for batcher in self._batchers.values():
            batcher.close()
        await self.cluster.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _batcher(self, partition: int) -> Batcher:
        batcher = self._batchers.get(partition)
        if batcher is None:
            route = self.cluster.route(partition)
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
