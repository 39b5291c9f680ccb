"""Stops asking a node of the bucket store that does not answer, until it answers again."""

import asyncio
from collections.abc import Hashable, Sequence
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from ratelimit_service.decision.charge import Charge, ChargeResult
from ratelimit_service.decision.ports import BucketStore, PartlyUnavailable, StoreUnavailable

N = TypeVar("N", bound=Hashable)

FAILURES = 2
"""Calls in a row that have to fail before a node is no longer asked. One alone may be a connection that was reset."""

PROBE_SECONDS = 0.1
"""Between the end of one probe and the next."""


class OpenStore(BucketStore, Protocol):
    """A bucket store that can be tried without charging anything, and closed."""

    @property
    def breaker_open(self) -> bool:
        """Whether a node is not asked because it did not answer."""
        ...

    async def ping(self) -> None:
        """Succeed when a charge would, wherever its buckets are. Raises StoreUnavailable."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class NodeStore(OpenStore, Protocol[N]):
    """A bucket store on one or more nodes, which fail one by one."""

    def node_of(self, charge: Charge, /) -> N:
        """The node that makes this charge, as far as is known."""
        ...

    async def ping_node(self, node: N, /) -> None:
        """Succeed when charges that this node made would succeed, there or elsewhere. Raises StoreUnavailable."""
        ...


class _Breaker:
    """What is known of a node whose last call failed. It is open while `probing` is set."""

    def __init__(self) -> None:
        self.failures = 0
        self.reason = ""
        self.probing: asyncio.Task[None] | None = None


class GuardedStore(Generic[N]):
    """Passes charges on to the nodes that answer; those for a node that does not fail at once, and it is probed.

    With a store timeout of T seconds it gives a node up after at most 2 T of silence (as few as one T when calls
    overlap), and asks it again within T + 0.1 s of its return. Belongs to the running loop; close it, or use it as
    `async with`; that closes the store too.
    """

    def __init__(self, store: NodeStore[N]) -> None:
        self._store = store
        self._breakers: dict[N, _Breaker] = {}

    @property
    def breaker_open(self) -> bool:
        """Whether a node is not asked because it did not answer."""
        return any(breaker.probing is not None for breaker in self._breakers.values())

    async def charge(self, charges: Sequence[Charge]) -> Sequence[ChargeResult]:
        """Make each charge or none of it, as the store does. Raises StoreUnavailable and PartlyUnavailable."""
        if self._breakers:
            return await self._charge_by_node(charges)
        try:
            return await self._store.charge(charges)
        except PartlyUnavailable as error:
            self._failed(
                [charge for charge, result in zip(charges, error.results, strict=True) if result is None], error
            )
            raise
        except StoreUnavailable as error:
            self._failed(charges, error)
            raise

    async def ping(self) -> None:
        """Succeed when a charge would, wherever its buckets are. Raises StoreUnavailable."""
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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _charge_by_node(self, charges: Sequence[Charge]) -> Sequence[ChargeResult]:
        places: dict[N, list[int]] = {}
        for place, charge in enumerate(charges):
            places.setdefault(self._store.node_of(charge), []).append(place)
        parts = [self._charge_node(node, [charges[place] for place in here]) for node, here in places.items()]
        answers = await asyncio.gather(*parts, return_exceptions=True)
        results: list[ChargeResult | None] = [None] * len(charges)
        errors: list[StoreUnavailable] = []
        for here, answer in zip(places.values(), answers, strict=True):
            if isinstance(answer, StoreUnavailable):
                errors.append(answer)
            elif isinstance(answer, BaseException):
                raise answer
            for place, result in zip(here, results_of(answer, len(here)), strict=True):
                results[place] = result
        if not errors:
            return [result for result in results if result is not None]
        if all(result is None for result in results):
            raise errors[0]
        raise PartlyUnavailable(str(errors[0]), results)

    async def _charge_node(self, node: N, charges: Sequence[Charge]) -> Sequence[ChargeResult]:
        breaker = self._breakers.get(node)
        if breaker is not None and breaker.probing is not None:
            raise StoreUnavailable(f"not asked while it does not answer: {breaker.reason}")
        try:
            results = await self._store.charge(charges)
        except StoreUnavailable as error:
            self._failed(charges, error)
            raise
        breaker = self._breakers.get(node)
        if breaker is not None and breaker.probing is None:
            del self._breakers[node]
        return results

    def _failed(self, charges: Sequence[Charge], error: StoreUnavailable) -> None:
        """Count one failure for each node that was to make these charges."""
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


def results_of(answer: Sequence[ChargeResult] | BaseException, count: int) -> Sequence[ChargeResult | None]:
    """The results of a call that may have failed for all its COUNT charges, or for some: None for each that failed."""
    if isinstance(answer, PartlyUnavailable):
        return answer.results
    return (None,) * count if isinstance(answer, BaseException) else answer
