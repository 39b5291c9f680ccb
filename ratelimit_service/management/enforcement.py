"""The switch of all limits, as admins turn it. Each method of the service is one transaction."""

from typing import Any, Final, Protocol

from ratelimit_service.decision.enforcement import MAX_OFF_US, Switch
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.decision.ports import Change, ChangeKind, Clock
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.audit import AuditedWork, Event, rfc3339
from ratelimit_service.management.text import check_description
from ratelimit_service.management.transactions import Rehearsal, Transactions

TARGET: Final = "enforcement"
"""The name of the switch in audit events."""


class EnforcementRepository(Protocol):
    """Stores the switch."""

    async def get(self) -> Switch:
        """Read it."""
        ...

    async def put(self, switch: Switch) -> None:
        """Store it."""
        ...


class EnforcementWork(AuditedWork, Protocol):
    """What a transaction of the switch works on."""

    @property
    def enforcement(self) -> EnforcementRepository:
        """The switch, as this transaction sees it."""
        ...


class EnforcementService:
    """Turns the switch for every server. Every method raises Unavailable when Postgres is down."""

    def __init__(self, transactions: Transactions[EnforcementWork], clock: Clock) -> None:
        self._transactions = transactions
        self._clock = clock

    def rehearsal(self) -> "EnforcementService":
        """The same service, whose changes are checked as a whole and not made."""
        return EnforcementService(Rehearsal(self._transactions), self._clock)

    async def turn_off(self, actor: str, duration_us: int, *, comment: str = "") -> Switch:
        """Have no limit refuse a call for so many microseconds from now on, at least a second and at most a day.

        `actor` is the caller's name, for the audit log, and `comment` why. Raises InvalidArgument (fields `duration`
        and `comment`).
        """
        check_duration(duration_us)
        try:
            check_description(comment)
        except InvalidArgument as error:
            raise InvalidArgument.of("comment", error.violations[0].description) from None
        now_us = self._clock.now_us()
        return await self._put(Switch(now_us + duration_us, now_us, actor, comment), "enforcement.off")

    async def turn_on(self, actor: str) -> Switch:
        """Have limits refuse calls again."""
        return await self._put(Switch(0, self._clock.now_us(), actor), "enforcement.on")

    async def get(self) -> Switch:
        """Read the switch of all servers. One that was off, and whose time is over, is on."""
        async with self._transactions.reading() as work:
            return (await work.enforcement.get()).at(self._clock.now_us())

    async def _put(self, switch: Switch, action: str) -> Switch:
        async with self._transactions.writing() as work:
            before = await work.enforcement.get()
            await work.enforcement.put(switch)
            previous = _fields(before, switch.changed_us)
            event = Event(switch.actor, action, TARGET, _fields(switch, switch.changed_us), switch.changed_us, previous)
            await work.record(event, Change(ChangeKind.ENFORCEMENT, ""))
        return switch


def check_duration(duration_us: int) -> None:
    """Raise InvalidArgument (field `duration`) unless it is 1 second to 24 hours, in microseconds."""
    if not MICRO <= duration_us <= MAX_OFF_US:
        raise InvalidArgument.of(
            "duration", f"is {duration_us / MICRO:g}s; limits can be off for 1s to 24h (86400s), and are on again then"
        )


def _fields(switch: Switch, now_us: int) -> dict[str, Any]:
    """The fields of the switch for the audit log."""
    if not switch.is_off(now_us):
        return {"off": False}
    comment = {"comment": switch.comment} if switch.comment else {}
    return {"off": True, "off_until": rfc3339(switch.off_until_us), **comment}
