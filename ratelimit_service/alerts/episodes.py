"""What becomes of an episode: how a condition changes its alert, and the change written with its message."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import structlog

from ratelimit_service.alerts.alert import Alert, Condition, DeliveryEvent
from ratelimit_service.alerts.messages import alert_message
from ratelimit_service.alerts.ports import LeaderTransactions
from ratelimit_service.usage.ports import Term

WRITTEN_AT_ONCE: Final = 100
"""Changes of one transaction: two statements for each, which have three seconds together."""

_log = structlog.stdlib.get_logger(__name__)


class Change(NamedTuple):
    """An alert as it is to be written, new if its number is 0, and what the message about that reports, if any."""

    alert: Alert
    event: DeliveryEvent | None


def begin(condition: Condition, now_us: int) -> Change:
    """The beginning of an episode."""
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
    return Change(begun, DeliveryEvent.FIRING)


def follow(alert: Alert, condition: Condition | None, now_us: int) -> Change | None:
    """What becomes of an alert that is firing, as its CONDITION is now; None if it holds no more.

    It is reported again if its level has risen. Returns None if nothing changes.
    """
    if condition is None:
        return Change(replace(alert, updated_us=now_us, ended_us=now_us), DeliveryEvent.RESOLVED)
    risen = condition.level > alert.level
    if not risen and condition.detail == alert.detail:
        return None
    kept = replace(
        alert,
        level=max(condition.level, alert.level),
        summary=condition.summary,
        detail=condition.detail,
        updated_us=now_us,
    )
    return Change(kept, DeliveryEvent.FIRING if risen else None)


class EpisodeWriter:
    """Writes changes, each in one transaction with its message."""

    def __init__(self, transactions: LeaderTransactions, *, webhook: bool) -> None:
        """WEBHOOK: whether there is one, so that messages are to be sent."""
        self._transactions = transactions
        self._webhook = webhook

    async def write(self, term: Term, changes: Sequence[Change], now_us: int) -> None:
        """Write CHANGES, some in each transaction, however many there are. Raises StoreUnavailable and LeaseLost."""
        for start in range(0, len(changes), WRITTEN_AT_ONCE):
            async with self._transactions.leading(term) as alerts:
                for alert, event in changes[start : start + WRITTEN_AT_ONCE]:
                    written = alert
                    if alert.alert_id:
                        await alerts.update(alert)
                    else:
                        written = replace(alert, alert_id=await alerts.add(alert))
                    if event is not None:
                        _log_change(written, event)
                        if self._webhook:
                            await alerts.send(alert_message(written, event, now_us))


def _log_change(alert: Alert, event: DeliveryEvent) -> None:
    _log.info("alert", alert=alert.alert_id, rule=alert.rule.value, delivery=event.value, target=alert.target)
