"""How much of their quotas the subjects have used that are near one: from counts who is near, from the buckets how."""

from collections.abc import Collection, Sequence
from typing import Final, Protocol

from ratelimit_service.alerts.alert import Alert, Rule
from ratelimit_service.alerts.ports import QuotaFloor, Usage
from ratelimit_service.alerts.rules import QuotaUse
from ratelimit_service.decision.charge import Charge, ChargeResult
from ratelimit_service.decision.limit import MICRO, Level, Quota, Window
from ratelimit_service.decision.policy import Policy
from ratelimit_service.decision.policy import Rule as LimitRule
from ratelimit_service.decision.ports import BucketStore, Clock, PolicySource
from ratelimit_service.decision.window import span
from ratelimit_service.management.paging import Page, Paging
from ratelimit_service.management.plans import Plan

MAX_SUBJECTS: Final = 500
"""Subjects whose buckets are read in one evaluation; of more that are near a quota, others at each."""

WINDOWS: Final = frozenset({Window.HOUR, Window.DAY, Window.WEEK, Window.MONTH, Window.YEAR})
"""The windows that are watched: shorter ones are over before anybody reads a message."""

_PER_READ: Final = 50
"""Buckets that are read at once."""

_NEAR: Final = 0.9
"""Share of the lowest threshold from which on counts say that a subject is near: they are a minute or two old."""


class Plans(Protocol):
    """Lists plans."""

    async def list(self, paging: Paging) -> Page[Plan]:
        """Read plans in the order of their names."""
        ...


class QuotaWatch:
    """Finds the quotas that are nearly used up."""

    def __init__(self, usage: Usage, plans: Plans, policies: PolicySource, buckets: BucketStore, clock: Clock) -> None:
        self._usage = usage
        self._plans = plans
        self._policies = policies
        self._buckets = buckets
        self._clock = clock
        self.unread = 0
        """Subjects near a quota whose buckets were not read the last time, since there were more than MAX_SUBJECTS."""
        self.complete = True
        """Whether the last time all subjects were considered that had calls."""

    async def uses(self, first: int, lowest: int, firing: Sequence[Alert]) -> list[QuotaUse]:
        """Read the live use of quotas that may have reached LOWEST percent, and of those that are FIRING.

        Only subjects with calls since minute FIRST can have reached it newly. Raises StoreUnavailable and Unavailable.
        """
        now_us = self._clock.now_us()
        floors = await self._floors(lowest, now_us)
        found_near = await self._usage.near(first, floors, MAX_SUBJECTS)
        self.unread, self.complete = found_near.others, found_near.complete
        near = set(found_near.key_ids)
        near |= {str(alert.detail["key_id"]) for alert in firing if alert.rule is Rule.QUOTA}
        rules = await self._rules(near, now_us)
        charges = [Charge((rule.bucket,), (0,)) for _, _, rule in rules]
        results: list[ChargeResult] = []
        for start in range(0, len(charges), _PER_READ):  # all at once they would time out, and delay decisions
            results += await self._buckets.charge(charges[start : start + _PER_READ])
        found = []
        for (key_id, subject, rule), result in zip(rules, results, strict=True):
            target = f"keys/{key_id}" if rule.level is Level.KEY else f"subjects/{subject}"
            amount, algorithm = rule.limit.capacity, rule.limit.algorithm
            used = amount - result.limit_results[0].remaining // MICRO
            window = algorithm.window.value if isinstance(algorithm, Quota) else ""
            found.append(QuotaUse(target, rule.limit.name, window, used, amount, key_id))
        return found

    async def _floors(self, lowest: int, now_us: int) -> list[QuotaFloor]:
        floors, page_token = [], ""
        while True:
            page = await self._plans.list(Paging(1_000, page_token))
            for plan in page.items:
                for limit in plan.limits:
                    algorithm = limit.algorithm
                    if isinstance(algorithm, Quota) and algorithm.window in WINDOWS:
                        tokens = round(algorithm.amount * lowest * _NEAR / 100)
                        start_us = span(algorithm.window, now_us)[0]
                        floors.append(QuotaFloor(plan.name, algorithm.window, start_us, tokens, limit.counts))
            page_token = page.next_page_token
            if not page_token:
                return floors

    async def _rules(self, key_ids: Collection[str], now_us: int) -> list[tuple[str, str, LimitRule]]:
        """The enforced quotas of these keys, each bucket once."""
        fetched = await self._policies.fetch(key_ids)
        found: dict[str, tuple[str, str, LimitRule]] = {}
        for key_id, record in sorted(fetched.records.items()):
            for rule in Policy(record, now_us).rules:
                algorithm = rule.limit.algorithm
                if rule.enforced and isinstance(algorithm, Quota) and algorithm.window in WINDOWS:
                    found.setdefault(rule.bucket.name, (key_id, record.subject, rule))
        return list(found.values())
