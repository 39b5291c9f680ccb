"""The background work that one process at a time does, the one that holds a lease."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Final, TypeAlias

import structlog

from ratelimit_service.background import keep_running
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.usage.ports import Lease, LeaseLost, Term

RENEW_SECONDS: Final = 1.0
"""Between two renewals, and between two attempts to acquire the lease."""

Work: TypeAlias = Callable[[Term], Awaitable[None]]
"""Runs until it is cancelled or raises LeaseLost. What it writes must check the term in the same transaction."""

_log = structlog.stdlib.get_logger(__name__)


class Leader:
    """Acquires a lease, does its works while it holds the lease, and stops them when it does not."""

    def __init__(
        self,
        lease: Lease,
        works: Mapping[str, Work],
        *,
        on_idle: Callable[[], None] = lambda: None,
        renew_seconds: float = RENEW_SECONDS,
    ) -> None:
        """`works` by name, for the log. ON_IDLE is called whenever it turns out that another process leads."""
        self._lease = lease
        self._works = works
        self._on_idle = on_idle
        self._renew_seconds = renew_seconds
        self.leading = False
        """Whether this process leads, as far as it knows."""

    async def run(self) -> None:
        """Lead whenever no other process does, until cancelled."""
        while True:
            with suppress(StoreUnavailable):
                term = await self._lease.acquire()
                if term is not None:
                    await self._lead(term)
                else:
                    self._on_idle()
            await asyncio.sleep(self._renew_seconds)

    async def _lead(self, term: Term) -> None:
        _log.info("acquired the lease", lease=self._lease.name, number=term.number)
        tasks = [
            asyncio.create_task(keep_running(name, partial(work, term), until=(LeaseLost,)), name=name)
            for name, work in self._works.items()
        ]
        renewal = asyncio.create_task(self._renew(term))
        self.leading = True
        lost = False
        try:
            await asyncio.wait([renewal, *tasks], return_when=asyncio.FIRST_COMPLETED)
            lost = True
        finally:
            self.leading = False
            for task in (running := [renewal, *tasks]):
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            if not lost:
                with suppress(StoreUnavailable):
                    await self._lease.release(term)
        _log.warning("lost the lease", lease=self._lease.name, number=term.number)

    async def _renew(self, term: Term) -> None:
        """Renew the lease until it is lost, or could not be renewed for as long as it lasts."""
        held_until = monotonic() + self._lease.seconds
        while monotonic() < held_until:
            await asyncio.sleep(self._renew_seconds)
            began = monotonic()
            with suppress(StoreUnavailable):
                if not await self._lease.renew(term):
                    return
                held_until = began + self._lease.seconds
