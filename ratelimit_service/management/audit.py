"""The audit log: who changed what. It is append-only: a row is written in the transaction of the change it records."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol

from ratelimit_service.decision.ports import Change
from ratelimit_service.decision.text import check_text
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.paging import Page, Paging
from ratelimit_service.management.transactions import Transactions

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_TARGET_BYTES = 272  # `domains/` and a domain of 256
_MAX_NAME_BYTES = 64

Fields = Mapping[str, Any]
"""Fields of an object with their values: strings, whole numbers, booleans, lists and dicts only. Never a secret."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change, as it is recorded.

    `action` is like `key.rotate`, `target` like `keys/<key_id>`. `detail` has the fields that changed, each with its
    new value, `previous` the same fields with the values before; a field that is in one of them only was added or
    removed. `time_us` is microseconds since 1970 UTC.
    """

    actor: str
    action: str
    target: str
    detail: Fields
    time_us: int
    previous: Fields = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One change that was recorded. `event_id` counts up in the order of the changes."""

    event_id: int
    event: Event


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which events to list: those that every filter matches. An empty text, and None, match all.

    `target_prefix` is the beginning of a target, such as `plans/`. Times are microseconds since 1970 UTC: at or after
    `start_us`, and before `end_us`.
    """

    target: str = ""
    target_prefix: str = ""
    actor: str = ""
    action: str = ""
    start_us: int | None = None
    end_us: int | None = None

    def check(self) -> None:
        """Raise InvalidArgument for a text that no event can have, or an end that is not after the start."""
        check_text("target", self.target, _MAX_TARGET_BYTES)
        check_text("target_prefix", self.target_prefix, _MAX_TARGET_BYTES)
        check_text("actor", self.actor, _MAX_NAME_BYTES)
        check_text("action", self.action, _MAX_NAME_BYTES)
        if self.start_us is not None and self.end_us is not None and self.end_us <= self.start_us:
            raise InvalidArgument.of("end_time", "is not after start_time; choose a later end, or an earlier start")

    @property
    def list_name(self) -> tuple[str, ...]:
        """Identify the list, for page tokens."""
        others = (self.target_prefix, self.actor, self.action, self.start_us, self.end_us)
        return "audit", self.target, *(map(str, others) if any(one not in {"", None} for one in others) else ())


ALL_EVENTS = AuditFilter()
"""Matches every event."""


class AuditRepository(Protocol):
    """Reads the audit log. `UnitOfWork.record` writes it."""

    async def list(self, *, before: int | None, count: int, filters: AuditFilter) -> Sequence[AuditEvent]:
        """Read at most COUNT events that FILTERS match, newest first, numbered below BEFORE (None: all)."""
        ...


class AuditedWork(Protocol):
    """A transaction whose changes are recorded."""

    async def record(self, event: Event, *changes: Change) -> None:
        """Write what this transaction did to the audit log, and announce CHANGES to every server once it commits."""
        ...

    async def record_all(self, recorded: Sequence[tuple[Event, Change]]) -> None:
        """Do the same for many changes at once."""
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

    async def list(self, paging: Paging, filters: AuditFilter = ALL_EVENTS) -> Page[AuditEvent]:
        """Read the changes that FILTERS match, newest first.

        Raises InvalidArgument, which names the invalid argument, and Unavailable when Postgres is down.
        """
        filters.check()
        count, before = paging.size + 1, paging.number(*filters.list_name)
        async with self._transactions.reading() as work:
            found = await work.audit.list(before=before, count=count, filters=filters)
        return paging.page(found, [str(event.event_id) for event in found], *filters.list_name)


def changed_fields(before: Fields, after: Fields) -> tuple[Fields, Fields]:
    """The fields that differ: with their values BEFORE, and with those AFTER. For `Event.previous` and `detail`."""
    return (
        {name: value for name, value in before.items() if name not in after or after[name] != value},
        {name: value for name, value in after.items() if name not in before or before[name] != value},
    )


class Difference(NamedTuple):
    """One field that changed: its path (`limits.burst.token_bucket.capacity`), and its values; None for none."""

    path: str
    old: Any
    new: Any


def differences(previous: Fields, detail: Fields) -> Sequence[Difference]:
    """What an event changed, field by field in the order of their paths, down to parts of limits and single labels.

    Parts that are the same before and after are left out. Events that were recorded before there was `previous` have
    no old values.
    """
    old, new = dict(_leaves(previous, "")), dict(_leaves(detail, ""))
    changed = [Difference(path, old.get(path), new.get(path)) for path in sorted({*old, *new})]
    return [one for one in changed if one.old != one.new]


def _leaves(fields: Fields, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def rfc3339(time_us: int) -> str:
    """Return microseconds since 1970 UTC as `2026-11-24T06:29:08.000001Z`, exactly."""
    moment = _EPOCH + timedelta(microseconds=time_us)
    return moment.isoformat(timespec="microseconds" if moment.microsecond else "seconds").replace("+00:00", "Z")
