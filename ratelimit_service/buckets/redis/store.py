"""The bucket store on one Redis or Valkey server."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from ratelimit_service.buckets.redis.batcher import MAX_BUCKETS, Batcher, RoundTripObserver, Route
from ratelimit_service.buckets.redis.script import Encoder
from ratelimit_service.decision.charge import Charge, ChargeResult


class ClosableRoute(Route, Protocol):
    """A way to a server that can be given up."""

    async def close(self) -> None:
        """Close the link."""
        ...


class RedisBucketStore:
    """Buckets on one server, which keeps them all together: a charge may take from any of them.

    Calls of one turn of the loop become one script, so what a call costs falls as load rises. `timeout` in seconds
    bounds each call. Belongs to the running loop; close it, or use it as `async with`.
    """

    breaker_open = False
    """It has no breaker."""

    def __init__(self, route: ClosableRoute, encoder: Encoder, timeout: float, observer: RoundTripObserver) -> None:
        self._route = route
        self._batcher = Batcher(route, encoder, timeout, observer)

    async def charge(self, charges: Sequence[Charge]) -> Sequence[ChargeResult]:
        """Make each charge or none of it, atomically and in this order. Raises StoreUnavailable."""
        parts = [self._batcher.submit(part) for part in portions(charges)]
        if len(parts) == 1:
            return await parts[0]
        return [outcome for outcomes in await asyncio.gather(*parts) for outcome in outcomes]

    def node_of(self, charge: Charge) -> None:
        """There is one node for all charges."""

    async def ping(self) -> None:
        """Run the script on nothing: succeeds when a charge would. Raises StoreUnavailable."""
        await self._batcher.submit(())

    async def ping_node(self, _node: object) -> None:
        """The same."""
        await self.ping()

    async def close(self) -> None:
        """Fail what is not answered yet, and close the connection."""
        self._batcher.close()
        await self._route.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def portions(charges: Sequence[Charge]) -> list[Sequence[Charge]]:
    """Cut CHARGES, in order, into as few parts as can be that each fit into one script."""
    if sum([len(charge.buckets) for charge in charges]) <= MAX_BUCKETS:
        return [charges]
    parts: list[Sequence[Charge]] = []
    start = size = 0
    for end, charge in enumerate(charges):
        if size + len(charge.buckets) > MAX_BUCKETS and end > start:
            parts.append(charges[start:end])
            start, size = end, 0
        size += len(charge.buckets)
    parts.append(charges[start:])
    return parts
