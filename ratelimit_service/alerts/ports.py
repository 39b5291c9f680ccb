"""The interfaces that alerts need. Adapters implement them."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ratelimit_service.alerts.alert import Alert, Delivery, Rule
from ratelimit_service.decision.limit import Counting, Window
from ratelimit_service.management.audit import AuditedWork
from ratelimit_service.usage.ports import Term


class AlertRepository(Protocol):
    """Stores alerts and their messages."""

    async def firing(self, rules: Collection[Rule]) -> Sequence[Alert]:
        """Read all alerts of these rules that are firing, without their messages."""
        ...

    async def firing_after(self, rule: Rule, after: tuple[str, str], count: int) -> Sequence[Alert]:
        """Read at most COUNT alerts of a rule that are firing, in the order of their targets and limits.

        Only those AFTER this target and limit.
        """
        ...

    async def firing_of(self, rule: Rule, of: Collection[tuple[str, str]]) -> Sequence[Alert]:
        """Read the alerts of a rule that are firing OF these targets and limits."""
        ...

    async def count_firing(self) -> Mapping[Rule, int]:
        """Count the alerts that are firing, of each rule that has any."""
        ...

    async def list(self, *, after: tuple[int, int] | None, count: int) -> Sequence[Alert]:
        """Read at most COUNT alerts with messages: those that are firing first, then by number, the newest first.

        Only those AFTER this one: 1 if it is firing, else 0, and its number.
        """
        ...

    async def tests(self, count: int) -> Sequence[Delivery]:
        """Read at most COUNT test messages, the newest first."""
        ...

    async def add(self, alert: Alert) -> int:
        """Insert an alert, whose number is 0, and return the number it gets."""
        ...

    async def update(self, alert: Alert) -> None:
        """Write the level, texts and times of an alert."""
        ...

    async def send(self, delivery: Delivery) -> None:
        """Put a message into the outbox."""
        ...

    async def due(self, now_us: int, count: int) -> Sequence[Delivery]:
        """Read at most COUNT pending messages whose next attempt is due: those about alerts first, then tests.

        Of either, those due longest come first.
        """
        ...

    async def attempted(self, delivery: Delivery) -> None:
        """Write the result of an attempt."""
        ...

    async def pending(self) -> int:
        """Count the pending messages."""
        ...

    async def forget(self, before_us: int, count: int) -> None:
        """Delete at most COUNT alerts that ended before a time, and their messages; and old tests."""
        ...


class AlertWork(AuditedWork, Protocol):
    """What a transaction of alerts works on."""

    @property
    def alerts(self) -> AlertRepository:
        """The alerts, as this transaction sees them."""
        ...


class LeaderTransactions(Protocol):
    """Begins transactions of the one process that evaluates alerts."""

    def leading(self, term: Term) -> AbstractAsyncContextManager[AlertRepository]:
        """Begin one that commits at its end. Raises StoreUnavailable, and LeaseLost if another process leads."""
        ...


class PlanMinute(NamedTuple):
    """The calls of a plan's keys in one minute, its number being minutes since 1970."""

    plan: str
    minute: int
    calls: int
    denied: int
    degraded: int


class QuotaFloor(NamedTuple):
    """From how many tokens in the current window on (`start_us`) subjects on a plan are near one of its quotas.

    Of a quota that counts calls these are calls.
    """

    plan: str
    window: Window
    start_us: int
    tokens: int
    counts: Counting = Counting.COST


class Near(NamedTuple):
    """Keys of subjects that may be near a quota, and how many such subjects there are whose keys were not read.

    `complete`: whether all subjects were considered, and not a part of them, of which there is another each time.
    """

    key_ids: Collection[str]
    others: int
    complete: bool = True


class Usage(Protocol):
    """What was counted. All raise StoreUnavailable."""

    async def plan_minutes(self, first: int, last: int) -> Sequence[PlanMinute]:
        """Read the calls of each plan in the minutes with these numbers, both included."""
        ...

    async def complete_until(self) -> int | None:
        """Return the time before which all counts are there, in microseconds since 1970 UTC; None if not known."""
        ...

    async def near(self, first: int, floors: Sequence[QuotaFloor], count: int) -> Near:
        """Read keys of at most COUNT subjects with calls since minute FIRST that may be near a quota.

        Those whose counts have reached a floor, and those with overrides of quotas; of more, some by chance. Of very
        many subjects with calls a part is considered, and another one each time.
        """
        ...


@dataclass(frozen=True, slots=True)
class Response:
    """What came of sending a message: the HTTP status, 0 without one, and why it failed, empty if it did not."""

    status: int
    error: str = ""


class Sender(Protocol):
    """Sends messages to the webhook."""

    async def send(self, headers: Mapping[str, str], body: bytes) -> Response:
        """Send one. Never raises for what the other side does."""
        ...


class Webhook(NamedTuple):
    """Where messages are sent to, and the secret that they are signed with."""

    sender: Sender
    secret: bytes


class AlertObserver(Protocol):
    """Is notified of what metrics report."""

    def firing(self, counts: Mapping[Rule, int]) -> None:
        """The number of alerts of each rule that are firing."""
        ...

    def unread(self, subjects: int) -> None:
        """The number of subjects near a quota whose buckets the last evaluation did not read, for want of time."""
        ...

    def attempted(self, outcome: str) -> None:
        """An attempt to deliver: `delivered`, `failed` or `given_up`."""
        ...

    def pending(self, count: int) -> None:
        """The number of messages that are pending."""
        ...
