"""The audit log: who changed what. It is append-only: a row is written in the transaction of the change it records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from ratelimit_service.decision.ports import Change
from ratelimit_service.management.paging import Page, Paging
from ratelimit_service.management.text import check_target
from ratelimit_service.management.transactions import Transactions

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Event:
    """One change, as it is recorded.

    `action` is like `key.rotate`, `target` like `keys/<key_id>`. `detail` has the fields that changed, each with its
    new value, and never a secret: strings, whole numbers, lists and dicts only. `time_us` is microseconds since 1970
    UTC.
    """

    actor: str
    action: str
    target: str
    detail: Mapping[str, Any]
    time_us: int


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One change that was recorded. `event_id` counts up in the order of the changes."""

    event_id: int
    event: Event


class AuditRepository(Protocol):
    """Reads the audit log. `UnitOfWork.record` writes it."""

    async def list(self, *, before: int | None, count: int, target: str) -> Sequence[AuditEvent]:
        """Read at most COUNT events, newest first, numbered below BEFORE (None: all), of TARGET unless it is empty."""
        ...


class AuditedWork(Protocol):
    """A transaction whose changes are recorded."""

    async def record(self, event: Event, *changes: Change) -> None:
        """Write what this transaction did to the audit log, and announce CHANGES to every server once it commits."""
        ...


class AuditWork(Protocol):
    """What a transaction of the audit log works on."""

    @property
    def audit(self) -> AuditRepository:
        """The audit log, as this transaction sees it."""
        ...


class AuditService:
    """Lists changes."""

    def __init__(self, transactions: Transactions[AuditWork]) -> None:
        self._transactions = transactions

    async def list(self, paging: Paging, *, target: str = "") -> Page[AuditEvent]:
        """Read changes, newest first: all, or those of one target (`keys/<key_id>`, `plans/<name>`).

        Raises InvalidArgument, which names the invalid argument, and Unavailable when Postgres is down.
        """
        check_target(target)
        count, before = paging.size + 1, paging.number("audit", target)
        async with self._transactions.reading() as work:
            found = await work.audit.list(before=before, count=count, target=target)
        return paging.page(found, [str(event.event_id) for event in found], "audit", target)


def rfc3339(time_us: int) -> str:
    """Return microseconds since 1970 UTC as `2026-11-24T06:29:08.000001Z`, exactly."""
    moment = _EPOCH + timedelta(microseconds=time_us)
    return moment.isoformat(timespec="microseconds" if moment.microsecond else "seconds").replace("+00:00", "Z")
