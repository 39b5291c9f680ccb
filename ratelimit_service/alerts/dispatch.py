"""Sending the messages in the outbox: the work of the one process that leads."""

import asyncio
import random
from collections.abc import Callable
from typing import Final

import structlog

from ratelimit_service.alerts.alert import Delivery, DeliveryState
from ratelimit_service.alerts.messages import after_attempt, headers_of
from ratelimit_service.alerts.ports import AlertObserver, LeaderTransactions, Webhook
from ratelimit_service.decision.ports import Clock, StoreUnavailable
from ratelimit_service.usage.ports import Term
from ratelimit_service.usage.query_range import DAY, MINUTE

_PAUSE_SECONDS: Final = 1.0
_WITHOUT_WEBHOOK_SECONDS: Final = 60.0
"""Between two times when old alerts are deleted, and messages of an earlier webhook counted: nothing is to be sent."""

_AT_ONCE: Final = 4
_KEPT_US: Final = 90 * DAY
"""For which an alert that has ended is kept."""

_FORGET_AT_ONCE: Final = 1_000
_FORGET_EVERY_US: Final = 10 * MINUTE

_log = structlog.stdlib.get_logger(__name__)


class AlertDispatcher:
    """Sends each message until it is accepted or a day old.

    At least once: a process that ends after sending and before writing that down leaves the message to be sent again,
    with the same id.
    """

    def __init__(
        self,
        transactions: LeaderTransactions,
        webhook: Webhook | None,
        observer: AlertObserver,
        clock: Clock,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Without a webhook nothing is sent, and old alerts are deleted all the same."""
        self._transactions = transactions
        self._webhook = webhook
        self._observer = observer
        self._clock = clock
        self._jitter = jitter
        self._forget_us = 0

    async def run(self, term: Term) -> None:
        """Send what is due until cancelled. Raises LeaseLost."""
        pause = _WITHOUT_WEBHOOK_SECONDS if self._webhook is None else _PAUSE_SECONDS
        try:
            while True:
                try:
                    sent = await self.dispatch(term)
                except StoreUnavailable:
                    sent = 0
                if not sent:
                    await asyncio.sleep(pause)
        finally:
            self._observer.pending(0)

    async def dispatch(self, term: Term) -> int:
        """Send the messages that are due, a few at a time, and return how many. Raises StoreUnavailable, LeaseLost."""
        now_us = self._clock.now_us()
        async with self._transactions.leading(term) as alerts:
            if now_us >= self._forget_us:
                await alerts.forget(now_us - _KEPT_US, _FORGET_AT_ONCE)
                self._forget_us = now_us + _FORGET_EVERY_US
            self._observer.pending(await alerts.pending())
            due = await alerts.due(now_us, _AT_ONCE) if self._webhook is not None else []
        if self._webhook is not None:
            await asyncio.gather(*(self._attempt(self._webhook, delivery, term) for delivery in due))
        return len(due)

    async def _attempt(self, webhook: Webhook, delivery: Delivery, term: Term) -> None:
        headers = headers_of(delivery, webhook.secret, self._clock.now_us())
        response = await webhook.sender.send(headers, delivery.body.encode())
        attempted = after_attempt(delivery, response, self._clock.now_us(), self._jitter)
        async with self._transactions.leading(term) as alerts:
            await alerts.attempted(attempted)
        outcome = "failed" if attempted.state is DeliveryState.PENDING else attempted.state.value
        self._observer.attempted(outcome)
        if attempted.error:
            _log.warning(
                "webhook message not delivered",
                delivery=delivery.delivery_id,
                attempts=attempted.attempts,
                error=attempted.error,
                given_up=attempted.state is DeliveryState.GIVEN_UP,
            )
