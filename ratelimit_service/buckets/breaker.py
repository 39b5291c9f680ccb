"""A circuit breaker for each node of the bucket store."""

import asyncio
from collections.abc import Hashable, Sequence
from typing import Generic, Protocol, TypeVar

from ratelimit_service.buckets.closing import Closing
from ratelimit_service.buckets.outcomes import Outcome, outcomes_of, results_of
from ratelimit_service.decision.charge import Charge, ChargeResult
from ratelimit_service.decision.ports import BucketStore, PartlyUnavailable, StoreUnavailable

N = TypeVar("N", bound=Hashable)

FAILURES = 2
"""Consecutive failed calls that open a node's breaker. A single failure may be a connection that was reset."""

PROBE_SECONDS = 0.1
"""Between the end of one probe and the start of the next."""


class ManagedStore(BucketStore, Protocol):
    """A bucket store that can be pinged without charging anything, and closed."""

    @property
    def breaker_open(self) -> bool:
        """Whether the breaker of a node is open."""
        ...

    async def ping(self) -> None:
        """Succeed if a charge would, on every node. Raises StoreUnavailable."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class NodeStore(ManagedStore, Protocol[N]):
    """A bucket store on one or more nodes, which fail independently."""

    def node_of(self, charge: Charge, /) -> N:
        """The node that makes this charge, as far as is known."""
        ...

    async def ping_node(self, node: N, /) -> None:
        """Succeed if charges that this node made would succeed, there or on another one. Raises StoreUnavailable."""
        ...


class _Breaker:
    """The state of a node after a failed call. It is open while `probing` is set."""

    def __init__(self) -> None:
        self.failures = 0
        self.reason = ""
        self.probing: asyncio.Task[None] | None = None


class GuardedStore(Closing, Generic[N]):
    """Passes charges on to the nodes that respond. Charges for a node with an open breaker fail at once; it is probed.

    Only failures that are conclusive count, so no caller opens a breaker by large charges, or by many.

    With a store timeout of T seconds a breaker opens after at most 2 T without a reply (as few as one T when calls
    overlap; 3 T when each is large, or late already when it is sent), and closes within T + 0.1 s of the node's return.
    Belongs to the running loop; close it, or use it as `async with`; that closes the store too.
    """

    def __init__(self, store: NodeStore[N]) -> None:
        self._store = store
        self._breakers: dict[N, _Breaker] = {}

    @property
    def breaker_open(self) -> bool:
        """Whether the breaker of a node is open."""
        return any(breaker.probing is not None for breaker in self._breakers.values())

    async def charge(self, charges: Sequence[Charge], deadline: float | None = None) -> Sequence[ChargeResult]:
        """Make each charge or none of it, as the store does. Raises StoreUnavailable and PartlyUnavailable."""
        if self._breakers:
            return await self._charge_by_node(charges, deadline)
        try:
            return await self._store.charge(charges, deadline)
        except PartlyUnavailable as error:
            self._count_failure(
                [
                    charge
                    for charge, outcome in zip(charges, error.results, strict=True)
                    if isinstance(outcome, StoreUnavailable) and outcome.conclusive
                ],
                error,
            )
            raise
        except StoreUnavailable as error:
            if error.conclusive:  # else it is overload
                self._count_failure(charges, error)
            raise

    async def ping(self) -> None:
        """Succeed if a charge would, on every node. Raises StoreUnavailable."""
        for breaker in self._breakers.values():
            if breaker.probing is not None:
                raise StoreUnavailable(breaker.reason)
        await self._store.ping()

    async def close(self) -> None:
        """Stop probing and close the store."""
        probes = [breaker.probing for breaker in self._breakers.values() if breaker.probing is not None]
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)
        await self._store.close()

    async def _charge_by_node(self, charges: Sequence[Charge], deadline: float | None) -> Sequence[ChargeResult]:
        by_node: dict[N, list[int]] = {}
        for index, charge in enumerate(charges):
            by_node.setdefault(self._store.node_of(charge), []).append(index)
        calls = [
            self._charge_node(node, [charges[index] for index in indexes], deadline)
            for node, indexes in by_node.items()
        ]
        returned = await asyncio.gather(*calls, return_exceptions=True)
        outcomes: dict[int, Outcome] = {}
        for indexes, value in zip(by_node.values(), returned, strict=True):
            outcomes.update(zip(indexes, outcomes_of(value, len(indexes)), strict=True))
        return results_of([outcomes[index] for index in range(len(charges))])

    async def _charge_node(self, node: N, charges: Sequence[Charge], deadline: float | None) -> Sequence[ChargeResult]:
        breaker = self._breakers.get(node)
        if breaker is not None and breaker.probing is not None:
            raise StoreUnavailable(f"circuit breaker open: {breaker.reason}")
        try:
            results = await self._store.charge(charges, deadline)
        except StoreUnavailable as error:
            if error.conclusive:
                self._count_failure(charges, error)
            raise
        breaker = self._breakers.get(node)
        if breaker is not None and breaker.probing is None:
            del self._breakers[node]
        return results

    def _count_failure(self, charges: Sequence[Charge], error: StoreUnavailable) -> None:
        """Count one failure of each node of these charges."""
        for node in {self._store.node_of(charge) for charge in charges}:
            breaker = self._breakers.setdefault(node, _Breaker())
            breaker.failures += 1
            breaker.reason = str(error)
            if breaker.failures >= FAILURES and breaker.probing is None:
                breaker.probing = asyncio.get_running_loop().create_task(self._probe(node, breaker))

    async def _probe(self, node: N, breaker: _Breaker) -> None:
        while True:
            try:
                await self._store.ping_node(node)
            except StoreUnavailable as error:
                breaker.reason = str(error)
                await asyncio.sleep(PROBE_SECONDS)
            else:
                break
        del self._breakers[node]
