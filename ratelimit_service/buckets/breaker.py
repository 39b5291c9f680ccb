"""Stops asking a bucket store that does not answer, until it answers again."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from ratelimit_service.decision.charge import Charge, ChargeResult
from ratelimit_service.decision.ports import BucketStore, StoreUnavailable

FAILURES = 2
"""Calls in a row that have to fail before no more are let through. One alone may be a connection that was reset."""

PROBE_SECONDS = 0.1
"""Between the end of one probe and the next."""


class PingableStore(BucketStore, Protocol):
    """A bucket store that can be tried without charging anything, and closed."""

    async def ping(self) -> None:
        """Succeed when a charge would. Raises StoreUnavailable."""
        ...

    async def close(self) -> None:
        """Let go of what is open."""
        ...


class GuardedStore:
    """Passes calls on to a store while it answers; while it does not, fails them at once and probes.

    With a store timeout of T seconds it gives up after at most 2 T of silence (as few as one T when calls overlap), and
    takes calls again within T + 0.1 s of the store's return. Belongs to the running loop; close it, or use it as `async
    with`; that closes the store too.
    """

    def __init__(self, store: PingableStore) -> None:
        self._store = store
        self._failures = 0
        self._why = ""
        self._probing: asyncio.Task[None] | None = None

    @property
    def closed_off(self) -> bool:
        """Whether calls fail at once because the store did not answer."""
        return self._probing is not None

    async def charge(self, charges: Sequence[Charge]) -> Sequence[ChargeResult]:
        """Make each charge or none of it, as the store does. Raises StoreUnavailable."""
        if self._probing is not None:
            raise StoreUnavailable(f"not asked while it does not answer: {self._why}")
        try:
            outcomes = await self._store.charge(charges)
        except StoreUnavailable as fault:
            self._failures += 1
            if self._failures >= FAILURES and self._probing is None:
                self._why = str(fault)
                self._probing = asyncio.get_running_loop().create_task(self._probe())
            raise
        self._failures = 0
        return outcomes

    async def ping(self) -> None:
        """Succeed when a charge would. Raises StoreUnavailable."""
        if self._probing is not None:
            raise StoreUnavailable(self._why)
        await self._store.ping()

    async def close(self) -> None:
        """Stop probing and close the store."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        await self._store.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _probe(self) -> None:
        while True:
            try:
                await self._store.ping()
            except StoreUnavailable as fault:
                self._why = str(fault)
                await asyncio.sleep(PROBE_SECONDS)
            else:
                break
        self._failures = 0
        self._probing = None
