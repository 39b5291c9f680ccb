"""Evaluating the rules: the work of the one process that leads."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import structlog

from ratelimit_service.alerts.alert import Rule
from ratelimit_service.alerts.episodes import EpisodeWriter, begin, follow
from ratelimit_service.alerts.ports import AlertObserver, LeaderTransactions, Usage
from ratelimit_service.alerts.quota_alerts import QuotaAlerts
from ratelimit_service.alerts.quotas import QuotaWatch
from ratelimit_service.alerts.rules import WATCHED_MINUTES, degraded_condition, denial_conditions
from ratelimit_service.decision.ports import Clock, StoreUnavailable
from ratelimit_service.errors import Unavailable
from ratelimit_service.usage.ports import Term
from ratelimit_service.usage.query_range import MINUTE

EVALUATE_SECONDS: Final = 10.0
"""Between two evaluations."""

SETTLE_US: Final = MINUTE * 5 // 4
"""After which the counts of a minute that has begun are in Postgres, as a rule."""

_log = structlog.stdlib.get_logger(__name__)


class Observed(NamedTuple):
    """Where the rules find what they need.

    `ping` returns once the bucket store has answered, and raises StoreUnavailable otherwise.
    """

    usage: Usage
    quotas: QuotaWatch
    ping: Callable[[], Awaitable[None]]


class AlertEvaluator:
    """Finds conditions that begin or end, and has each change written with its message."""

    def __init__(  # noqa: PLR0913  what it reads, writes and is set to
        self,
        transactions: LeaderTransactions,
        observed: Observed,
        observer: AlertObserver,
        clock: Clock,
        *,
        thresholds: Sequence[int],
        webhook: bool,
    ) -> None:
        """THRESHOLDS: percentages of quotas. WEBHOOK: whether there is one, so that messages are to be sent."""
        self._transactions = transactions
        self._usage, quotas, self._ping = observed
        self._observer = observer
        self._clock = clock
        self._writer = EpisodeWriter(transactions, webhook=webhook)
        self._quotas = QuotaAlerts(
            transactions, self._usage, quotas, self._writer, observer, thresholds=sorted(thresholds)
        )

    async def run(self, term: Term) -> None:
        """Evaluate every few seconds until cancelled. Raises LeaseLost."""
        try:
            while True:
                try:
                    await self.evaluate(term)
                except (StoreUnavailable, Unavailable) as error:
                    _log.warning("alerts not evaluated; trying again", error=str(error))
                await asyncio.sleep(EVALUATE_SECONDS)
        finally:
            self._observer.firing({})
            self._observer.unread(0)

    async def evaluate(self, term: Term) -> None:
        """Evaluate all rules once. Raises StoreUnavailable, Unavailable and LeaseLost.

        Quotas come last, in transactions of their own: if they cannot be evaluated, the other rules were.
        """
        now_us = self._clock.now_us()
        last = (now_us - SETTLE_US) // MINUTE
        minutes = await self._usage.plan_minutes(last - WATCHED_MINUTES + 1, last)
        async with self._transactions.leading(term) as alerts:
            firing = await alerts.firing((Rule.DENIALS, Rule.DEGRADED))
        store_error = await self._store_error()
        conditions = denial_conditions(minutes, last, firing, now_us)
        conditions += degraded_condition(minutes, last, store_error=store_error)
        found = {condition.episode: condition for condition in conditions}
        changes = [follow(alert, found.pop(alert.episode, None), now_us) for alert in firing]
        changes += [begin(condition, now_us) for condition in found.values()]
        await self._writer.write(term, [change for change in changes if change is not None], now_us)
        if not store_error:
            try:
                await self._quotas.evaluate(term, last, now_us)
            except (StoreUnavailable, Unavailable) as error:
                _log.warning("quotas not evaluated; trying again", error=str(error))
        async with self._transactions.leading(term) as alerts:
            self._observer.firing(Counter(await alerts.count_firing()))

    async def _store_error(self) -> str:
        try:
            await self._ping()
        except StoreUnavailable as error:
            return str(error)
        return ""
