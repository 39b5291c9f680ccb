"""Evaluating the rules: the work of the one process that leads."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import structlog

from ratelimit_service.alerts.alert import Alert, Condition, DeliveryEvent, Rule
from ratelimit_service.alerts.messages import alert_message
from ratelimit_service.alerts.ports import AlertObserver, AlertRepository, LeaderTransactions, Usage
from ratelimit_service.alerts.quotas import QuotaWatch
from ratelimit_service.alerts.rules import WATCHED_MINUTES, degraded_condition, denial_conditions, quota_conditions
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
    """Finds conditions that begin or end, and writes the change and its message in one transaction."""

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
        self._usage, self._quotas, self._ping = observed
        self._observer = observer
        self._clock = clock
        self._thresholds = tuple(sorted(thresholds))
        self._webhook = webhook
        self._quotas_until = 0
        self._quotas_from = 0  # subjects without calls since this minute have been checked

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
        """Evaluate all rules once. Raises StoreUnavailable, Unavailable and LeaseLost."""
        now_us = self._clock.now_us()
        last = (now_us - SETTLE_US) // MINUTE
        minutes = await self._usage.plan_minutes(last - WATCHED_MINUTES + 1, last)
        async with self._transactions.leading(term) as alerts:
            firing = await alerts.firing()
        store_error = await self._store_error()
        conditions = denial_conditions(minutes, last, firing, now_us)
        conditions += degraded_condition(minutes, last, store_error=store_error)
        rules = {Rule.DENIALS, Rule.DEGRADED}
        if last > self._quotas_until and not store_error:
            first = max(self._quotas_from, last - WATCHED_MINUTES + 1)
            try:
                uses = await self._quotas.uses(first, self._thresholds[0], firing) if self._thresholds else []
            except (StoreUnavailable, Unavailable) as error:
                _log.warning("quotas not evaluated; trying again", error=str(error))
            else:
                conditions += quota_conditions(uses, self._thresholds)
                self._observer.unread(self._quotas.unread)
                rules.add(Rule.QUOTA)
        async with self._transactions.leading(term) as alerts:
            still = await self._apply(alerts, conditions, rules, now_us)
        if Rule.QUOTA in rules:
            self._quotas_until = last
            if self._quotas.complete and not self._quotas.unread:
                self._quotas_from = last + 1
        self._observer.firing(Counter(alert.rule for alert in still))

    async def _apply(
        self, alerts: AlertRepository, conditions: Sequence[Condition], rules: Collection[Rule], now_us: int
    ) -> list[Alert]:
        """Write what has begun, risen and ended. Returns the alerts that are firing then."""
        found = {condition.episode: condition for condition in conditions}
        still = []
        for alert in await alerts.firing():
            condition = found.pop(alert.episode, None)
            if condition is not None:
                still.append(await self._keep(alerts, alert, condition, now_us))
            elif alert.rule in rules:
                ended = replace(alert, updated_us=now_us, ended_us=now_us)
                await alerts.update(ended)
                await self._send(alerts, ended, DeliveryEvent.RESOLVED, now_us)
            else:
                still.append(alert)
        for condition in found.values():
            begun = Alert(
                alert_id=0,
                rule=condition.rule,
                target=condition.target,
                limit=condition.limit,
                level=condition.level,
                summary=condition.summary,
                detail=condition.detail,
                started_us=now_us,
                updated_us=now_us,
            )
            begun = replace(begun, alert_id=await alerts.add(begun))
            await self._send(alerts, begun, DeliveryEvent.FIRING, now_us)
            still.append(begun)
        return still

    async def _keep(self, alerts: AlertRepository, alert: Alert, condition: Condition, now_us: int) -> Alert:
        """Bring an alert up to date; report it again if its level has risen."""
        risen = condition.level > alert.level
        if not risen and condition.detail == alert.detail:
            return alert
        kept = replace(
            alert,
            level=max(condition.level, alert.level),
            summary=condition.summary,
            detail=condition.detail,
            updated_us=now_us,
        )
        await alerts.update(kept)
        if risen:
            await self._send(alerts, kept, DeliveryEvent.FIRING, now_us)
        return kept

    async def _send(self, alerts: AlertRepository, alert: Alert, event: DeliveryEvent, now_us: int) -> None:
        _log.info("alert", alert=alert.alert_id, rule=alert.rule.value, delivery=event.value, target=alert.target)
        if self._webhook:
            await alerts.send(alert_message(alert, event, now_us))

    async def _store_error(self) -> str:
        try:
            await self._ping()
        except StoreUnavailable as error:
            return str(error)
        return ""
