"""Deletes what was kept long enough: rows of the outbox of changes, and old audit events."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from ratelimit_service.decision.limit import MICRO
from ratelimit_service.management.transactions import Transactions

DAY_US = 86_400 * MICRO

OUTBOX_DAYS = 7
"""How long a change stays in the outbox. A server that has not read it by then reads everything again."""

_CHUNK = 1_000
"""Rows of one transaction: other writers wait for it, some hundredths of a second, and get their turn after it."""

_MAX_CHUNKS = 100
"""Chunks of one call, so that it ends; the rest is for the next one."""


class Prunable(Protocol):
    """A log whose old rows may be deleted."""

    async def prune(self, before_us: int, count: int) -> int:
        """Delete at most COUNT of the oldest rows, those from before BEFORE_US only. Returns how many were deleted."""
        ...


class RetentionWork(Protocol):
    """What a transaction of retention works on."""

    @property
    def outbox(self) -> Prunable:
        """The outbox of changes. Its newest row is never deleted, so that its numbers go on."""
        ...

    @property
    def audit(self) -> Prunable:
        """The audit log."""
        ...


class Pruned(NamedTuple):
    """How many rows were deleted."""

    changes: int
    audit_events: int


class Retention:
    """Deletes rows of the outbox after 7 days, and audit events after `audit_days` days; 0 keeps those forever."""

    def __init__(self, transactions: Transactions[RetentionWork], *, audit_days: int) -> None:
        self._transactions = transactions
        self._audit_days = audit_days

    async def prune(self, now_us: int) -> Pruned:
        """Delete what is too old at NOW_US, at most 100,000 rows of each. Meant to be called every minute or hour.

        Several may run at once, and it may be cancelled at any time. Raises Unavailable when Postgres is down.
        """
        changes = await self._prune(lambda work: work.outbox.prune(now_us - OUTBOX_DAYS * DAY_US, _CHUNK))
        events = 0
        if self._audit_days:
            before_us = now_us - self._audit_days * DAY_US
            events = await self._prune(lambda work: work.audit.prune(before_us, _CHUNK))
        return Pruned(changes, events)

    async def _prune(self, chunk: Callable[[RetentionWork], Awaitable[int]]) -> int:
        total = 0
        for _ in range(_MAX_CHUNKS):
            async with self._transactions.writing() as work:
                deleted = await chunk(work)
            total += deleted
            if deleted < _CHUNK:
                break
        return total
