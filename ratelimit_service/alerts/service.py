"""Reading alerts, and sending a test message. Each method is one transaction."""

from collections.abc import Sequence
from typing import Final

from ratelimit_service.alerts.alert import Alert, AlertState, Delivery
from ratelimit_service.alerts.messages import trial_message
from ratelimit_service.alerts.ports import AlertWork
from ratelimit_service.decision.ports import Clock
from ratelimit_service.errors import FailedPrecondition
from ratelimit_service.management.audit import Event
from ratelimit_service.management.paging import Page, Paging
from ratelimit_service.management.transactions import Transactions
from ratelimit_service.usage.query_range import DAY

_LIST: Final = "alerts"
_MAX_TESTS: Final = 10
_FAR_US: Final = 30 * DAY


class AlertService:
    """Lists alerts with their messages, and sends tests. Raises Unavailable when Postgres is down."""

    def __init__(self, transactions: Transactions[AlertWork], clock: Clock, *, webhook: bool) -> None:
        """WEBHOOK: whether there is a webhook to send messages to."""
        self._transactions = transactions
        self._clock = clock
        self.webhook = webhook
        """Whether messages are sent."""

    async def list(self, paging: Paging) -> Page[Alert]:
        """Read alerts: those that are firing first, then the others, in both the newest first."""
        position = paging.number(_LIST)
        after = None if position is None else (position & 1, position >> 1)
        async with self._transactions.reading() as work:
            found = await work.alerts.list(after=after, count=paging.size + 1)
        positions = [str(alert.alert_id << 1 | (alert.state is AlertState.FIRING)) for alert in found]
        return paging.page(found, positions, _LIST)

    async def tests(self) -> Sequence[Delivery]:
        """Read the last test messages, the newest first."""
        async with self._transactions.reading() as work:
            return await work.alerts.tests(_MAX_TESTS)

    async def waiting(self) -> tuple[int, Sequence[Delivery]]:
        """Return how many messages are still to be delivered, and those that are due first."""
        async with self._transactions.reading() as work:
            first = await work.alerts.due(self._clock.now_us() + _FAR_US, _MAX_TESTS)
            return await work.alerts.pending(), first

    async def test(self, actor: str) -> Delivery:
        """Send a test message, soon after. Raises FailedPrecondition without a webhook."""
        if not self.webhook:
            raise FailedPrecondition(
                "no webhook is configured; set RATELIMIT_ALERT_WEBHOOK_URL and RATELIMIT_ALERT_WEBHOOK_SECRET",
                reason="WEBHOOK_NOT_CONFIGURED",
            )
        now_us = self._clock.now_us()
        delivery = trial_message(actor, now_us)
        async with self._transactions.writing() as work:
            await work.alerts.send(delivery)
            await work.record(Event(actor, "alert.test", "alerts", {"delivery_id": delivery.delivery_id}, now_us))
        return delivery
