"""The alerts of quotas: as many at a time as take bounded work, however many subjects are over a threshold."""

from collections.abc import Sequence
from typing import Final

from ratelimit_service.alerts.alert import Alert, Condition, Rule
from ratelimit_service.alerts.episodes import Change, EpisodeWriter, begin, follow
from ratelimit_service.alerts.ports import AlertObserver, LeaderTransactions, Near, Usage
from ratelimit_service.alerts.quotas import QuotaWatch
from ratelimit_service.alerts.rules import WATCHED_MINUTES, quota_conditions
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.usage.ports import Term
from ratelimit_service.usage.query_range import MINUTE

MAX_FIRING: Final = 500
"""Alerts that are firing whose quotas are read again in one evaluation."""

LATE_MINUTES: Final = 60
"""Counts that come into Postgres later than this name nobody who may have reached a threshold."""

_FOUND_AT_ONCE: Final = 500
"""Conditions whose alerts are read in one transaction."""


class QuotaAlerts:
    """Begins, updates and ends the alerts of quotas.

    Once a minute it looks for subjects that have come near a quota. Those whose alerts are firing are read again in
    rounds: a part in each evaluation until all have been, and again from the next minute on.
    """

    def __init__(  # noqa: PLR0913  what it reads, writes and is set to
        self,
        transactions: LeaderTransactions,
        usage: Usage,
        quotas: QuotaWatch,
        writer: EpisodeWriter,
        observer: AlertObserver,
        *,
        thresholds: Sequence[int],
    ) -> None:
        """THRESHOLDS: percentages, ascending. Without any, the alerts that are firing end."""
        self._transactions = transactions
        self._usage = usage
        self._quotas = quotas
        self._writer = writer
        self._observer = observer
        self._thresholds = thresholds
        self._after = ("", "")  # target and limit of the alert that was read last in this round; empty: between rounds
        self._until = 0  # the minute by whose counts subjects have been found
        self._from = 0  # subjects without calls since this minute have been found, if they are near a quota

    async def evaluate(self, term: Term, last: int, now_us: int) -> None:
        """Evaluate the rule, LAST being the last minute that is in Postgres as a rule.

        Raises StoreUnavailable, Unavailable and LeaseLost.
        """
        is_new = last > self._until
        if not is_new and not any(self._after):
            return
        near, covered = Near((), 0), 0
        if is_new and self._thresholds:
            covered = await self._covered(last)
            near = await self._near(last, covered)
        firing = await self._next_firing(term)
        uses = []
        if self._thresholds:
            uses = await self._quotas.uses({*near.key_ids, *(str(alert.detail.get("key_id", "")) for alert in firing)})
        await self._write(term, firing, quota_conditions(uses, self._thresholds), now_us)
        if is_new:
            self._until = last
            self._leave(min(covered, last + 1) if near.complete and not near.others else last + 2 - WATCHED_MINUTES)
            self._observer.unread(near.others)

    async def _near(self, last: int, covered: int) -> Near:
        """Keys of subjects that may have reached a threshold newly, counts before minute COVERED being complete."""
        first = max(self._from or min(covered, last - WATCHED_MINUTES + 1), last - LATE_MINUTES + 1)
        try:
            return await self._quotas.near(first, self._thresholds[0])
        except StoreUnavailable:
            self._leave(last - WATCHED_MINUTES + 1)  # so many minutes at once may have been too much
            raise

    async def _covered(self, last: int) -> int:
        """The minute before which all counts are in Postgres: the lag of usage may be longer than it is as a rule."""
        complete_us = await self._usage.complete_until()
        return last - WATCHED_MINUTES + 1 if complete_us is None else complete_us // MINUTE

    def _leave(self, minute: int) -> None:
        """Subjects without calls since this MINUTE need not be looked for any more."""
        self._from = max(self._from, minute)

    async def _next_firing(self, term: Term) -> Sequence[Alert]:
        """The next alerts of this round. If their quotas cannot be read, they come again in the next round."""
        async with self._transactions.leading(term) as alerts:
            firing = await alerts.firing_after(Rule.QUOTA, self._after, MAX_FIRING)
        self._after = (firing[-1].target, firing[-1].limit) if len(firing) == MAX_FIRING else ("", "")
        return firing

    async def _write(self, term: Term, firing: Sequence[Alert], conditions: Sequence[Condition], now_us: int) -> None:
        found = {condition.episode: condition for condition in conditions}
        changes = [follow(alert, found.pop(alert.episode, None), now_us) for alert in firing]
        others = list(found.values())
        for start in range(0, len(others), _FOUND_AT_ONCE):
            changes += await self._others(term, others[start : start + _FOUND_AT_ONCE], now_us)
        await self._writer.write(term, [change for change in changes if change is not None], now_us)

    async def _others(self, term: Term, conditions: Sequence[Condition], now_us: int) -> list[Change | None]:
        """What becomes of conditions whose alerts are not among those of this round's part, if they are firing."""
        episodes = [(condition.target, condition.limit) for condition in conditions]
        async with self._transactions.leading(term) as alerts:
            firing = {alert.episode: alert for alert in await alerts.firing_of(Rule.QUOTA, episodes)}
        return [
            begin(condition, now_us)
            if (alert := firing.get(condition.episode)) is None
            else follow(alert, condition, now_us)
            for condition in conditions
        ]
